"""Copies on this machine of artifacts in a bucket: fetched whole, verified, and put in place by one rename."""

import hashlib
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.artifacts import MANIFEST, Manifest
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, file_sha256
from ratchet.infra.bucket import Bucket
from ratchet.infra.bucket_errors import WrongSize
from ratchet.infra.bucket_transfer import download_all
from ratchet.infra.claims import Lock
from ratchet.infra.manifests import MADE, corrupt, text_of, write_atomic
from ratchet.infra.s3_manifests import Found, address
from ratchet.infra.store import LocalStore


@dataclass(frozen=True, kw_only=True)
class Copies:
    """A local store that holds copies. One that is harmed is fetched again; only a harmed object in the bucket is an error."""

    bucket: Bucket
    local: LocalStore
    part_bytes: int
    _verified: set[str] = field(default_factory=set[str])
    """Artifacts whose copy this process has compared, byte for byte."""

    def bring(self, found: Found) -> Path:
        """The folder of an artifact's copy, fetched if need be: one process of a machine at a time, going on where one before it ended."""
        manifest = found.manifest
        identity = manifest.identity
        if identity not in self._verified and not self._is_here(manifest):
            parts = self.local.state / "downloads" / identity
            with Lock(parts.with_name(f"{identity}.lock")) as lock:
                while not lock.try_acquire():
                    time.sleep(0.2)
                if not self._is_here(manifest):
                    parts.mkdir(parents=True, exist_ok=True)
                    self._fetch(manifest, parts)
                    self._assemble(found, parts)
        self._verified.add(identity)
        return self.local.object(identity)

    def file(self, manifest: Manifest, name: str) -> Path | None:
        """One small file of an artifact, whether or not there is a copy of the others."""
        if name not in manifest.files:
            return None
        if here := self.local.file(manifest.identity, name):
            return here
        body = self.bucket.read(key_of(manifest, name))
        if body is None or hashlib.sha256(body.data).hexdigest() != manifest.files[name]["sha256"]:
            raise corrupt(address(self.bucket, manifest.identity), f"{name} is missing or has not the sha256 that its manifest says")
        apart = self.local.state / "files" / manifest.identity / name
        write_atomic(apart, body.data)
        return apart

    def keep(self, folder: Path, found: Found) -> None:
        """Make a folder that holds an artifact's files its copy; whatever else stands in that place is kept aside."""
        identity = found.manifest.identity
        (folder / MADE).write_bytes(canonical(dict(found.made)))
        (folder / MANIFEST).write_bytes(text_of(found.manifest))
        while not self.local.place(folder, identity):
            if self._is_here(found.manifest):
                shutil.rmtree(folder, ignore_errors=True)
                return
            self.local.quarantine(identity)

    def forget(self, identity: str) -> None:
        """The copy is to be compared before it is used again."""
        self._verified.discard(identity)

    def remove(self, identity: str) -> None:
        """Delete an artifact's copy."""
        self.forget(identity)
        self.local.remove(identity)
        shutil.rmtree(self.local.state / "files" / identity, ignore_errors=True)

    def _is_here(self, manifest: Manifest) -> bool:
        """Whether the copy is the artifact, byte for byte."""
        if not self.local.has(manifest.identity):
            return False
        with suppress(CorruptArtifact):
            return self.local.verify(manifest.identity).digest == manifest.digest
        return False

    def _fetch(self, manifest: Manifest, parts: Path) -> None:
        """Fetch the files, under the names of their digests; what comes out wrong is fetched once more from the start."""
        wanted = {entry["sha256"]: int(entry["bytes"]) for entry in manifest.files.values()}
        for last in (False, True):
            try:
                keys = {f"objects/{manifest.identity}/{sha}": (parts / sha, size) for sha, size in wanted.items()}
                download_all(self.bucket, keys, self.part_bytes)
            except WrongSize as wrong:
                raise wrong_size(self.bucket, manifest, wrong.key, wrong.found) from None
            harmed = [sha for sha in wanted if file_sha256(parts / sha) != sha]
            for sha in harmed:
                (parts / sha).unlink()
                (parts / f"{sha}.done").unlink()
            if not harmed:
                return
            if last:
                name = next(name for name, entry in manifest.files.items() if entry["sha256"] == harmed[0])
                what = f"{name} has not the sha256 that its manifest says ({harmed[0][:16]}…)"
                raise corrupt(address(self.bucket, manifest.identity), what)

    def _assemble(self, found: Found, parts: Path) -> None:
        """Make what was fetched the copy."""
        manifest = found.manifest
        draft = self.local.draft(manifest.identity, f"fetched-{uuid.uuid4().hex}")
        for name, entry in manifest.files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            if _is_repeated(manifest, entry):
                shutil.copyfile(parts / entry["sha256"], draft / name)
            else:
                (parts / entry["sha256"]).rename(draft / name)
        self.keep(draft, found)
        shutil.rmtree(parts, ignore_errors=True)


def key_of(manifest: Manifest, name: str) -> str:
    """Where a file of an artifact lies in the bucket."""
    return f"objects/{manifest.identity}/{manifest.files[name]['sha256']}"


def wrong_size(bucket: Bucket, manifest: Manifest, key: str, found: int | None) -> CorruptArtifact:
    """The error that names a file in the bucket that is not there, or not in its size."""
    name = next(name for name in manifest.files if key_of(manifest, name) == key)
    what = "is missing or too short" if found in (None, -1) else f"has {found} bytes, its manifest says {manifest.files[name]['bytes']}"
    return corrupt(address(bucket, manifest.identity), f"{name} {what}")


def _is_repeated(manifest: Manifest, entry: Mapping[str, Any]) -> bool:
    return sum(other["sha256"] == entry["sha256"] for other in manifest.files.values()) > 1
