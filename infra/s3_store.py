"""Artifacts in an S3 bucket, with a verified copy on this machine of what it made or opened.

<uri>/
├── manifests/<identity>.json      put last and under the condition that there is none: its existence means completeness, and of
│                                  several attempts exactly one wins
├── objects/<identity>/<sha256>    the files, named by content: attempts that race never write over each other's
├── quarantine/                    manifests that `retry` set aside
└── runs/<name>/                   ledger and lease (`bucket_runs.py`, `bucket_lease.py`)

The bucket decides what is published; what lies under `<root>/.ratchet/objects` are copies.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from ratchet.artifacts import MANIFEST, Manifest, Opened
from ratchet.errors import CorruptArtifact
from ratchet.infra.bucket import Bucket
from ratchet.infra.bucket_errors import StoreAway
from ratchet.infra.bucket_runs import BucketRuns
from ratchet.infra.bucket_transfer import upload_all
from ratchet.infra.claims import Lock
from ratchet.infra.manifests import MADE, Facts, note_difference, parse, seal, write_atomic
from ratchet.infra.s3_copies import Copies, key_of, wrong_size
from ratchet.infra.s3_leftovers import discard, leftovers
from ratchet.infra.s3_manifests import FOLDER, Found, Manifests, address, identity_in
from ratchet.infra.s3_manifests import key_of as manifest_key
from ratchet.infra.store import Leftover, LocalStore, open_parts, publish_json


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """The store under a bucket's prefix."""

    state: Path
    bucket: Bucket
    spec: dict[str, Any]
    part_bytes: int

    @cached_property
    def manifests(self) -> Manifests:
        return Manifests(bucket=self.bucket, memory=self.state / "manifests")

    @cached_property
    def copies(self) -> Copies:
        return Copies(bucket=self.bucket, local=LocalStore(state=self.state), part_bytes=self.part_bytes)

    @property
    def runs(self) -> BucketRuns:
        return BucketRuns(self.bucket)

    def object(self, identity: str) -> Path:
        return self.copies.local.object(identity)

    def address(self, identity: str) -> str:
        return address(self.bucket, identity)

    def survey(self, identities: Iterable[str]) -> None:
        self.manifests.survey(identities)

    def find(self, identity: str) -> Manifest | None:
        found = self._find(identity)
        return found.manifest if found else None

    def _find(self, identity: str) -> Found | None:
        return self.manifests.find(identity) or self._sent_late(identity)

    def has(self, identity: str) -> bool:
        return self.bucket.read(manifest_key(identity)) is not None

    def made(self, identity: str) -> dict[str, Any]:
        found = self._find(identity) or self.manifests.look(identity)
        return dict(found.made) if found else {}

    def open(self, identity: str) -> Opened:
        found = self._published(identity)
        folder = self.copies.bring(found)
        return Opened(manifest=found.manifest, folder=folder, parts=open_parts(self, self.address(identity), found.manifest))

    def file(self, identity: str, name: str) -> Path | None:
        found = self._find(identity) or self.manifests.look(identity)
        return self.copies.file(found.manifest, name) if found else None

    def verify(self, identity: str) -> Manifest:
        """Ask the bucket anew for the manifest and every file's size, and compare the copy byte for byte."""
        self._forget(identity)
        found = self._published(identity)
        for name, entry in found.manifest.files.items():
            key = key_of(found.manifest, name)
            if (size := self.bucket.size(key)) != entry["bytes"]:
                raise wrong_size(self.bucket, found.manifest, key, size)
        self.copies.bring(found)
        return found.manifest

    def _published(self, identity: str) -> Found:
        found = self._find(identity) or self.manifests.look(identity)  # whatever a listing said a moment ago
        if found is None:
            raise CorruptArtifact(f"{self.address(identity)} is not published")
        return found

    def _forget(self, identity: str) -> None:
        self.manifests.forget(identity)
        self.copies.forget(identity)

    # publishing

    def draft(self, identity: str, attempt: str) -> Path:
        return self.copies.local.draft(identity, attempt)

    def publish(self, draft: Path, **facts: Unpack[Facts]) -> tuple[Manifest, bool]:
        """As every store does; if the bucket stays away, what was made waits on this machine for whoever asks for it next."""
        manifest = seal(draft, facts)
        try:
            found, won = self._send(draft, manifest)
        except StoreAway as away:
            waiting = self._outbox(manifest.identity)
            waiting.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # one waits there already
                draft.rename(waiting)
            raise StoreAway(f"{away}\n  what was made waits in {waiting}, and is sent by the next command that asks for it") from None
        return found.manifest, won

    def _send(self, folder: Path, manifest: Manifest) -> tuple[Found, bool]:
        """Upload a sealed folder's files, then put the manifest, if there is none; the folder becomes the local copy."""
        made = json.loads((folder / MADE).read_bytes())
        upload_all(self.bucket, {key_of(manifest, name): folder / name for name in manifest.files}, self.part_bytes)
        while not (found := self.manifests.put(manifest, made)):
            if winner := self.manifests.look(manifest.identity):
                note_difference(self.state, manifest, winner.manifest)
                if winner.manifest.digest == manifest.digest:
                    self.copies.keep(folder, winner)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                return winner, False
        self.copies.keep(folder, found)
        return found, True

    def _outbox(self, identity: str) -> Path:
        return self.state / "outbox" / identity

    def _sent_late(self, identity: str) -> Found | None:
        """What an attempt on this machine made while the bucket was away, published now; None if there is nothing such."""
        waiting = self._outbox(identity)
        if not waiting.exists():
            return None
        with Lock(waiting.with_name(f"{identity}.lock")) as lock:
            if not lock.try_acquire() or not waiting.exists():
                return None  # somebody is at it
            return self._send(waiting, parse(waiting, identity, (waiting / MANIFEST).read_bytes()))[0]

    def publish_json(self, name: str, value: Mapping[str, Any], *, kind: str) -> Manifest:
        return publish_json(self, name, value, kind)

    # taking away

    def quarantine(self, identity: str) -> Path:
        moment, local = time.time_ns(), self.copies.local
        body = self.bucket.read(manifest_key(identity))
        if body:
            self.bucket.write(f"quarantine/{identity}.{moment}.json", body.data)
            self.bucket.delete(manifest_key(identity))
        self._forget(identity)
        shutil.rmtree(self._outbox(identity), ignore_errors=True)
        if local.has(identity):
            return local.quarantine(identity)
        aside = self.state / "quarantine" / f"{identity}.{moment}"
        write_atomic(aside / MANIFEST, body.data if body else b"")
        return aside

    def identities(self, older_than_s: float = float("-inf")) -> set[str]:
        return {identity_in(entry.key) for entry in self.bucket.list(FOLDER) if entry.age_s > older_than_s}

    def size(self, identity: str) -> int:
        return sum(entry.bytes for entry in self.bucket.list(f"objects/{identity}/"))

    def remove(self, identity: str) -> None:
        self.bucket.delete(manifest_key(identity))
        self._forget(identity)
        self.bucket.delete_all([entry.key for entry in self.bucket.list(f"objects/{identity}/")])
        self.copies.remove(identity)
        shutil.rmtree(self._outbox(identity), ignore_errors=True)

    def leftovers(self) -> list[Leftover]:
        return leftovers(self.manifests, self.copies.local)

    def discard(self, leftover: Leftover) -> None:
        discard(self.bucket, self.copies.local, leftover)
