"""Artifacts on a local or shared filesystem: drafts become objects by one rename, and the manifest is written last."""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ratchet.artifacts import MANIFEST, SCHEMA, Manifest, Opened
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, digest, file_sha256

MADE = "made.json"
"""Host, time, attempt, seconds: beside the manifest, not in what is hashed."""


@dataclass(frozen=True, kw_only=True)
class LocalStore:
    """The store under `<root>/.ratchet`."""

    state: Path
    _verified: dict[str, Manifest] = field(default_factory=dict[str, Manifest], compare=False, repr=False)

    def object(self, identity: str) -> Path:
        """Where an artifact lies once it is published."""
        return self.state / "objects" / identity

    def find(self, identity: str) -> Manifest | None:
        """The manifest of a published artifact, or None. Only a missing file is a miss: any other error is raised."""
        folder = self.object(identity)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            if folder.exists():
                raise _corrupt(folder, f"{MANIFEST} is missing") from None
            return None
        manifest = _parse(folder, text)
        if manifest.identity != identity:
            raise _corrupt(folder, f"{MANIFEST} is that of {manifest.identity}")
        for name, entry in manifest.files.items():
            try:
                size = (folder / name).stat().st_size
            except FileNotFoundError:
                raise _corrupt(folder, f"{name} is missing") from None
            if size != entry["bytes"]:
                raise _corrupt(folder, f"{name} has {size} bytes, its manifest says {entry['bytes']}")
        return manifest

    def open(self, identity: str) -> Opened:
        """The artifact's folder, after its files' digests were compared with the manifest (once per process)."""
        folder = self.object(identity)
        manifest = self._verified.get(identity) or self.verify(identity)
        parts = tuple(self.open(part["identity"]) for part in manifest.parts)
        for stated, part in zip(manifest.parts, parts, strict=True):
            if part.manifest.digest != stated["digest"]:
                raise _corrupt(folder, f"its shard {stated['identity']} has digest {part.manifest.digest}, it was made of {stated['digest']}")
        return Opened(manifest=manifest, folder=folder, parts=parts)

    def verify(self, identity: str) -> Manifest:
        """Compare every file of an artifact with its manifest, byte for byte."""
        folder = self.object(identity)
        manifest = self.find(identity)
        if manifest is None:
            raise CorruptArtifact(f"{folder} is not published")
        for name, entry in manifest.files.items():
            if (found := file_sha256(folder / name)) != entry["sha256"]:
                raise _corrupt(folder, f"{name} has sha256 {found[:16]}…, its manifest says {entry['sha256'][:16]}…")
        self._verified[identity] = manifest
        return manifest

    def made(self, identity: str) -> dict[str, Any]:
        """When, where and by which attempt an artifact was made."""
        with suppress(FileNotFoundError, ValueError):
            found: dict[str, Any] = json.loads((self.object(identity) / MADE).read_text())
            return found
        return {}

    def draft(self, identity: str, attempt: str) -> Path:
        """A fresh folder for one attempt's work."""
        folder = self.state / "drafts" / f"{identity}.{attempt}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def publish(
        self,
        draft: Path,
        *,
        identity: str,
        kind: str,
        rows: int = 0,
        metrics: Mapping[str, float] | None = None,
        parts: Sequence[Mapping[str, Any]] = (),
        producer: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        made: Mapping[str, Any] | None = None,
    ) -> tuple[Manifest, bool]:
        """Make a draft visible, once and atomically; return the manifest that stands and whether it is this draft's.

        The first writer wins. A loser's draft is removed; if its content differs, the difference is kept beside the claim as
        `nondeterministic.<time>.json`, since then the stage is not the function it claims to be.
        """
        files = {str(f.relative_to(draft)): {"sha256": file_sha256(f), "bytes": f.stat().st_size} for f in sorted(draft.rglob("*")) if f.is_file()}
        manifest = Manifest(
            identity=identity,
            kind=kind,
            rows=rows,
            metrics=dict(metrics or {}),
            files=files,
            parts=tuple(parts),
            producer=producer or {},
            inputs=inputs or {},
        )
        (draft / MADE).write_bytes(canonical({"published": time.time(), **(made or {})}))
        (draft / MANIFEST).write_bytes(canonical({**asdict(manifest), "digest": manifest.digest}))
        for file in draft.rglob("*"):
            sync(file)
        sync(draft)
        target = self.object(identity)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return self._lost(draft, manifest), False
        sync(target.parent)
        return manifest, True

    def _lost(self, draft: Path, manifest: Manifest) -> Manifest:
        winner = self.find(manifest.identity)
        assert winner is not None, "the rename found an object that is not there"
        if winner.digest != manifest.digest:
            write_atomic(
                self.state / "claims" / manifest.identity / f"nondeterministic.{time.time_ns()}.json",
                canonical({"published": winner.digest, "discarded": manifest.digest, "files": manifest.files}),
            )
        shutil.rmtree(draft, ignore_errors=True)
        return winner

    def publish_json(self, name: str, value: Mapping[str, Any], *, kind: str) -> Manifest:
        """Publish one JSON value as an artifact of its own, named by its content."""
        identity = digest({"kind": kind, "value": value})
        if found := self.find(identity):
            return found
        draft = self.draft(identity, uuid.uuid4().hex[:8])
        (draft / name).write_bytes(canonical(value) + b"\n")
        return self.publish(draft, identity=identity, kind=kind)[0]

    def quarantine(self, identity: str) -> Path:
        """Take an artifact out of the store, so that its stage runs again; what it held is kept aside."""
        aside = self.state / "quarantine" / f"{identity}.{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        self._verified.pop(identity, None)
        self.object(identity).rename(aside)
        return aside


def _parse(folder: Path, text: str) -> Manifest:
    try:
        raw = json.loads(text)
        stated = raw.pop("digest")
        manifest = Manifest(**{**raw, "parts": tuple(raw["parts"])})
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(folder, f"{MANIFEST} cannot be read ({error})") from None
    if manifest.schema > SCHEMA:
        raise CorruptArtifact(f"{folder} was written by a newer ratchet (schema {manifest.schema}, this one reads {SCHEMA})")
    if manifest.digest != stated:
        raise _corrupt(folder, f"{MANIFEST} states digest {stated}, its files give {manifest.digest}")
    return manifest


def _corrupt(folder: Path, what: str) -> CorruptArtifact:
    return CorruptArtifact(
        f"corrupted artifact {folder}: {what}\n  next: `ratchet retry NAME --round K [--stage VERB]` sets it aside and makes it again"
    )


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)
