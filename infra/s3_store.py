"""Artifacts in an S3 bucket, with a verified copy on this machine of what it made or opened.

<uri>/
├── manifests/<identity>.json      put last and under the condition that there is none: its existence means completeness, and of
│                                  several attempts exactly one wins. It says `made` too, so both are the winner's.
├── objects/<identity>/<sha256>    the files, named by content: attempts that race never write over each other's
├── quarantine/                    manifests that `retry` set aside
└── runs/<name>/                   ledger and lease (`bucket_runs.py`, `bucket_lease.py`)

The bucket decides what is published. `<root>/.ratchet/objects` is a cache: a copy that is harmed is fetched again, and only a harmed
object in the bucket is a CorruptArtifact.
"""

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Unpack

from ratchet.artifacts import MANIFEST, Manifest, Opened
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, file_sha256
from ratchet.infra.bucket import PAGE, Bucket
from ratchet.infra.bucket_errors import StoreAway, WrongSize
from ratchet.infra.bucket_runs import BucketRuns
from ratchet.infra.bucket_transfer import download_all, upload_all
from ratchet.infra.claims import Lock
from ratchet.infra.manifests import MADE, Facts, corrupt, note_difference, parse, seal, text_of, write_atomic
from ratchet.infra.store import Leftover, LocalStore, open_parts, publish_json

LISTED_S = 30.0
"""For how long a listing is believed about what it does not list."""
PAGES = 20
"""Of a listing: a bucket that holds more artifacts is asked for each."""
ABANDONED_S = 24 * 3600.0
"""What no manifest names after this long belongs to an attempt that died."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A manifest that was read, and how its artifact was made."""

    manifest: Manifest
    made: Mapping[str, Any]


@dataclass(kw_only=True)
class Listing:
    """What was published when the bucket was last listed: identity → ETag of its manifest."""

    etags: dict[str, str] = field(default_factory=dict[str, str])
    at: float = float("-inf")
    complete: bool = False


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """The store under a bucket's prefix."""

    state: Path
    bucket: Bucket
    spec: dict[str, Any]
    part_bytes: int
    _found: dict[str, Found] = field(default_factory=dict[str, Found], compare=False, repr=False)
    _here: set[str] = field(default_factory=set[str], compare=False, repr=False)
    """Artifacts whose local copy this process has verified."""
    _listing: Listing = field(default_factory=Listing, compare=False, repr=False)

    @property
    def cache(self) -> LocalStore:
        return LocalStore(state=self.state)

    @property
    def runs(self) -> BucketRuns:
        return BucketRuns(self.bucket)

    def object(self, identity: str) -> Path:
        return self.cache.object(identity)

    def address(self, identity: str) -> str:
        return self.bucket.address(f"objects/{identity}")

    # what is published

    def survey(self, identities: Iterable[str]) -> None:
        entries = list(self.bucket.list("manifests/", pages=PAGES))
        listing = self._listing
        listing.etags = {_identity(entry.key): entry.etag for entry in entries}
        listing.at, listing.complete = time.monotonic(), len(entries) < PAGES * PAGE
        missing = []
        for identity in dict.fromkeys(identities):
            if identity in listing.etags and identity not in self._found and not self._remembered(identity, listing.etags[identity]):
                missing.append(identity)
        for key, body in self.bucket.read_all([_manifest(identity) for identity in missing]).items():
            if body is not None:
                with suppress(CorruptArtifact):  # whoever asks for it will be told
                    self._learn(_identity(key), body.data, body.etag)

    def find(self, identity: str) -> Manifest | None:
        if identity not in self._found:
            if self._listed_absent(identity) and not self._outbox(identity).exists():
                return None
            body = self.bucket.read(_manifest(identity))
            if body is None:
                return self._sent_late(identity)
            self._learn(identity, body.data, body.etag)
        return self._found[identity].manifest

    def has(self, identity: str) -> bool:
        return identity in self._found or self.bucket.read(_manifest(identity)) is not None

    def made(self, identity: str) -> dict[str, Any]:
        return dict(self._found[identity].made) if self.find(identity) else {}

    def _listed_absent(self, identity: str) -> bool:
        """Whether a listing just made says that it is not published. It says so once: who asks again wants to know it of now."""
        listing = self._listing
        absent = listing.complete and time.monotonic() - listing.at < LISTED_S and identity not in listing.etags
        listing.etags.setdefault(identity, "")
        return absent

    def _learn(self, identity: str, text: bytes, etag: str) -> Found:
        found = self._read(identity, text)
        remembered = self._memory(identity)
        remembered.parent.mkdir(parents=True, exist_ok=True)
        temporary = remembered.with_name(f".{remembered.name}.{uuid.uuid4().hex}")
        temporary.write_bytes(canonical({"etag": etag, "text": text.decode()}))
        temporary.replace(remembered)
        return found

    def _remembered(self, identity: str, etag: str) -> Found | None:
        """A manifest as this machine read it before, if it is still the one in the bucket."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            memory = json.loads(self._memory(identity).read_bytes())
            return self._read(identity, memory["text"].encode()) if memory["etag"] == etag else None
        return None

    def _read(self, identity: str, text: bytes) -> Found:
        try:
            raw = json.loads(text)
            made = raw.pop("made", {})
        except (ValueError, AttributeError) as error:
            raise corrupt(self.address(identity), f"{MANIFEST} cannot be read ({error})") from None
        manifest = parse(self.address(identity), identity, canonical(raw))
        for name in manifest.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name in ("", MANIFEST, MADE):
                raise corrupt(self.address(identity), f"{MANIFEST} names a file {name!r}")
        found = Found(manifest=manifest, made=made)
        self._found[identity] = found
        return found

    def _memory(self, identity: str) -> Path:
        return self.state / "manifests" / f"{identity}.json"

    def _forget(self, identity: str) -> None:
        self._found.pop(identity, None)
        self._here.discard(identity)
        self._listing.etags[identity] = ""
        self._memory(identity).unlink(missing_ok=True)

    # artifacts on this machine

    def open(self, identity: str) -> Opened:
        manifest = self._published(identity)
        if identity not in self._here:
            self._bring(manifest)
            self._here.add(identity)
        parts = open_parts(self, self.address(identity), manifest)
        return Opened(manifest=manifest, folder=self.object(identity), parts=parts)

    def file(self, identity: str, name: str) -> Path | None:
        manifest = self.find(identity)
        if manifest is None or name not in manifest.files:
            return None
        if here := self.cache.file(identity, name):
            return here
        body = self.bucket.read(self._file(manifest, name))
        if body is None or hashlib.sha256(body.data).hexdigest() != manifest.files[name]["sha256"]:
            raise corrupt(self.address(identity), f"{name} is missing or has not the sha256 that its manifest says")
        apart = self.state / "files" / identity / name
        write_atomic(apart, body.data)
        return apart

    def verify(self, identity: str) -> Manifest:
        self._found.pop(identity, None)
        self._here.discard(identity)
        manifest = self._published(identity)
        sizes = {name: self.bucket.size(self._file(manifest, name)) for name in manifest.files}
        for name, size in sizes.items():
            if size != manifest.files[name]["bytes"]:
                raise self._wrong_size(manifest, self._file(manifest, name), size)
        self._bring(manifest)
        self._here.add(identity)
        return manifest

    def _published(self, identity: str) -> Manifest:
        manifest = self.find(identity)
        if manifest is None:
            raise CorruptArtifact(f"{self.address(identity)} is not published")
        return manifest

    def _file(self, manifest: Manifest, name: str) -> str:
        return f"objects/{manifest.identity}/{manifest.files[name]['sha256']}"

    def _is_here(self, manifest: Manifest) -> bool:
        """Whether the local copy is the artifact, byte for byte."""
        if not self.cache.has(manifest.identity):
            return False
        with suppress(CorruptArtifact):
            return self.cache.verify(manifest.identity).digest == manifest.digest
        return False

    def _bring(self, manifest: Manifest) -> None:
        """Make the local copy be there: one process of a machine at a time, going on where one before it ended."""
        if self._is_here(manifest):
            return
        parts = self.state / "downloads" / manifest.identity
        with Lock(parts.with_name(f"{manifest.identity}.lock")) as lock:
            while not lock.try_acquire():
                time.sleep(0.2)
            if not self._is_here(manifest):
                parts.mkdir(parents=True, exist_ok=True)
                self._download(manifest, parts)
                self._settle(manifest, parts)

    def _download(self, manifest: Manifest, parts: Path) -> None:
        """Fetch the files, under the names of their digests; what comes out wrong is fetched once more from the start."""
        wanted = {entry["sha256"]: int(entry["bytes"]) for entry in manifest.files.values()}
        for last in (False, True):
            try:
                keys = {f"objects/{manifest.identity}/{sha}": (parts / sha, size) for sha, size in wanted.items()}
                download_all(self.bucket, keys, self.part_bytes)
            except WrongSize as wrong:
                raise self._wrong_size(manifest, wrong.key, wrong.found) from None
            harmed = [sha for sha in wanted if file_sha256(parts / sha) != sha]
            if not harmed:
                return
            for sha in harmed:
                (parts / sha).unlink()
                (parts / f"{sha}.done").unlink()
            if last:
                name = next(name for name, entry in manifest.files.items() if entry["sha256"] == harmed[0])
                raise corrupt(self.address(manifest.identity), f"{name} has not the sha256 that its manifest says ({harmed[0][:16]}…)")

    def _wrong_size(self, manifest: Manifest, key: str, found: int | None) -> CorruptArtifact:
        name = next(name for name in manifest.files if self._file(manifest, name) == key)
        what = "is missing or too short" if found in (None, -1) else f"has {found} bytes, its manifest says {manifest.files[name]['bytes']}"
        return corrupt(self.address(manifest.identity), f"{name} {what}")

    def _settle(self, manifest: Manifest, parts: Path) -> None:
        """Make what was fetched the local copy, by one rename."""
        draft = self.draft(manifest.identity, f"fetched-{uuid.uuid4().hex}")
        for name, entry in manifest.files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parts / entry["sha256"], draft / name) if _repeated(manifest, entry) else (parts / entry["sha256"]).rename(draft / name)
        self._keep(draft, manifest)
        shutil.rmtree(parts, ignore_errors=True)

    def _keep(self, draft: Path, manifest: Manifest) -> None:
        """Make a folder that holds an artifact's files the local copy; whatever else stands there is kept aside."""
        (draft / MADE).write_bytes(canonical(self.made(manifest.identity)))
        (draft / MANIFEST).write_bytes(text_of(manifest))
        cache = self.cache
        while not cache.place(draft, manifest.identity):
            if self._is_here(manifest):
                shutil.rmtree(draft, ignore_errors=True)
                return
            cache.quarantine(manifest.identity)

    # publishing

    def draft(self, identity: str, attempt: str) -> Path:
        return self.cache.draft(identity, attempt)

    def publish(self, draft: Path, **facts: Unpack[Facts]) -> tuple[Manifest, bool]:
        """As every store does; if the bucket stays away, what was made waits on this machine for whoever asks for it next."""
        manifest = seal(draft, facts)
        try:
            return self._send(draft, manifest)
        except StoreAway as away:
            waiting = self._outbox(manifest.identity)
            waiting.parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # one waits there already
                draft.rename(waiting)
            raise StoreAway(f"{away}\n  what was made waits in {waiting}, and is sent by the next command that asks for it") from None

    def _send(self, draft: Path, manifest: Manifest) -> tuple[Manifest, bool]:
        """Upload the files, then put the manifest, if there is none; the folder becomes the local copy."""
        made = json.loads((draft / MADE).read_bytes())
        upload_all(self.bucket, {self._file(manifest, name): draft / name for name in manifest.files}, self.part_bytes)
        text = canonical({**asdict(manifest), "digest": manifest.digest, "made": made})
        while not self.bucket.write_new(_manifest(manifest.identity), text):
            self._forget(manifest.identity)
            if body := self.bucket.read(_manifest(manifest.identity)):
                winner = self._learn(manifest.identity, body.data, body.etag).manifest
                note_difference(self.state, manifest, winner)
                self._keep(draft, winner) if winner.digest == manifest.digest else shutil.rmtree(draft, ignore_errors=True)
                return winner, False
        self._read(manifest.identity, text)
        self._keep(draft, manifest)
        return manifest, True

    def _outbox(self, identity: str) -> Path:
        return self.state / "outbox" / identity

    def _sent_late(self, identity: str) -> Manifest | None:
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
        moment = time.time_ns()
        body = self.bucket.read(_manifest(identity))
        text = body.data if body else b""
        if body:
            self.bucket.write(f"quarantine/{identity}.{moment}.json", text)
            self.bucket.delete(_manifest(identity))
        self._forget(identity)
        shutil.rmtree(self._outbox(identity), ignore_errors=True)
        if self.cache.has(identity):
            return self.cache.quarantine(identity)
        aside = self.state / "quarantine" / f"{identity}.{moment}"
        write_atomic(aside / MANIFEST, text)
        return aside

    def identities(self, older_than_s: float = float("-inf")) -> set[str]:
        return {_identity(entry.key) for entry in self.bucket.list("manifests/") if entry.age_s > older_than_s}

    def size(self, identity: str) -> int:
        return sum(entry.bytes for entry in self.bucket.list(f"objects/{identity}/"))

    def remove(self, identity: str) -> None:
        self.bucket.delete(_manifest(identity))
        self._forget(identity)
        self.bucket.delete_all([entry.key for entry in self.bucket.list(f"objects/{identity}/")])
        self.cache.remove(identity)
        shutil.rmtree(self._outbox(identity), ignore_errors=True)
        shutil.rmtree(self.state / "files" / identity, ignore_errors=True)

    def leftovers(self) -> list[Leftover]:
        """Those of this machine, and of the bucket what is older than a day, since attempts elsewhere may be at work."""
        downloads = self.state / "downloads"
        parts = [folder for folder in sorted(downloads.iterdir()) if folder.is_dir()] if downloads.is_dir() else []
        begun = "a download that was not finished"
        here = [
            Leftover(identity=f.name, where=str(f), why=begun, bytes=sum(x.stat().st_blocks * 512 for x in f.rglob("*") if x.is_file()))
            for f in parts
        ]
        return [*self.cache.leftovers(), *here, *self._set_aside(), *self._abandoned(), *self._uploads()]

    def _set_aside(self) -> list[Leftover]:
        entries = self.bucket.list("quarantine/")
        return [self._leftover(entry.key, "set aside by `retry`", entry.bytes) for entry in entries]

    def _abandoned(self) -> list[Leftover]:
        """Files that no manifest names: of attempts that lost or died, and of artifacts that were set aside."""
        old = [entry for entry in self.bucket.list("objects/") if entry.age_s > ABANDONED_S]
        published = self.identities()
        self.survey(published & {_identity(entry.key) for entry in old})
        found = []
        for entry in old:
            identity = _identity(entry.key)
            if identity in published:
                with suppress(CorruptArtifact):
                    manifest = self.find(identity)
                    named = {file["sha256"] for file in manifest.files.values()} if manifest else set[str]()
                    if entry.key.rpartition("/")[2] not in named:
                        found.append(self._leftover(entry.key, "a file that its artifact's manifest does not name", entry.bytes))
            else:
                found.append(self._leftover(entry.key, "a file of an attempt that never published", entry.bytes))
        return found

    def _uploads(self) -> list[Leftover]:
        old = [entry for entry in self.bucket.uploads() if entry.age_s > ABANDONED_S]
        return [self._leftover(entry.key, f"an upload that was never completed ({entry.upload})", 0) for entry in old]

    def _leftover(self, key: str, why: str, size: int) -> Leftover:
        return Leftover(identity=_identity(key), where=self.bucket.address(key), why=why, bytes=size)

    def discard(self, leftover: Leftover) -> None:
        key = leftover.where.removeprefix(f"{self.bucket.uri}/")
        if key == leftover.where:
            self.cache.discard(leftover)
        elif leftover.why.startswith("an upload"):
            for upload in [entry for entry in self.bucket.uploads() if entry.key == key and f"({entry.upload})" in leftover.why]:
                self.bucket.abort(upload)
        else:
            self.bucket.delete(key)


def _manifest(identity: str) -> str:
    return f"manifests/{identity}.json"


def _identity(key: str) -> str:
    """The identity in a key: `manifests/<identity>.json`, `objects/<identity>/…`, `quarantine/<identity>.…`."""
    return key.split("/")[1].partition(".")[0]


def _repeated(manifest: Manifest, entry: Mapping[str, Any]) -> bool:
    return sum(other["sha256"] == entry["sha256"] for other in manifest.files.values()) > 1
