"""What a store is, and the one on a local or shared filesystem: drafts become objects by one rename, the manifest written last.

`s3_store.py` is the other one; `stores.py` opens either from a config.
"""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, Unpack

from ratchet.artifacts import MANIFEST, Manifest, Opened
from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, digest, file_sha256
from ratchet.infra.ledger import Remote
from ratchet.infra.manifests import MADE, Facts, corrupt, note_difference, parse, seal, sync, write_atomic

__all__ = ["LocalStore", "Store", "sync", "write_atomic"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What a store holds that is no artifact, and that no command will ask for again."""

    identity: str
    where: str
    why: str
    bytes: int


class Hold(Protocol):
    """A run in one driver's hands."""

    def check(self) -> None:
        """Raise `RunHeld` if it is not any more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Runs(Protocol):
    """Runs that are kept in a store beside the artifacts, of which a root has copies."""

    def names(self) -> list[str]: ...

    def ledger(self, run: str) -> Remote: ...

    def lease(self, run: str, *, watch: bool = True) -> Hold:
        """Hold a run among all machines, or say who does."""
        ...

    def holder(self, run: str) -> str | None:
        """Who holds a run, in words, as far as can be told at once."""
        ...

    def delete(self, run: str) -> None:
        """Delete a run's ledger and lease."""
        ...


class Store(Protocol):
    """Where artifacts are published, once each, and found again."""

    @property
    def state(self) -> Path:
        """The root's state folder: claims and drafts are always there, and of artifacts at least what was opened on this machine."""
        ...

    @property
    def spec(self) -> dict[str, Any]:
        """What another process opens the same store by (`stores.open_store`): JSON without a secret, empty for the local one."""
        ...

    @property
    def runs(self) -> Runs | None:
        """The runs that are kept in the store itself; None if the root has all there is of them."""
        ...

    def object(self, identity: str) -> Path:
        """Where an artifact's files lie on this machine, once they are here."""
        ...

    def address(self, identity: str) -> str:
        """Where an artifact lies for everyone: a path or a URI."""
        ...

    def survey(self, identities: Iterable[str]) -> None:
        """Learn in few requests what is published of all that is about to be asked for."""
        ...

    def find(self, identity: str) -> Manifest | None:
        """The manifest of a published artifact, or None. Only absence is a miss: any other error is raised."""
        ...

    def has(self, identity: str) -> bool:
        """Whether anything is published under an identity, readable or not."""
        ...

    def open(self, identity: str) -> Opened:
        """The artifact in a local folder, after its files' digests were compared with the manifest (once per process)."""
        ...

    def file(self, identity: str, name: str) -> Path | None:
        """One file of a published artifact, on this machine, whatever is the matter with the others; None if it has no such file."""
        ...

    def verify(self, identity: str) -> Manifest:
        """Compare every file of an artifact with its manifest, byte for byte."""
        ...

    def made(self, identity: str) -> dict[str, Any]:
        """When, where and by which attempt an artifact was made."""
        ...

    def draft(self, identity: str, attempt: str) -> Path:
        """A fresh folder for one attempt's work."""
        ...

    def publish(self, draft: Path, **facts: Unpack[Facts]) -> tuple[Manifest, bool]:
        """Make a draft visible, once and atomically; return the manifest that stands and whether it is this draft's.

        The first writer wins. A loser's draft is removed; if its content differs, the difference is kept beside the claim as
        `nondeterministic.<time>.json`, since then the stage is not the function it claims to be.
        """
        ...

    def publish_json(self, name: str, value: Mapping[str, Any], *, kind: str) -> Manifest:
        """Publish one JSON value as an artifact of its own, named by its content."""
        ...

    def quarantine(self, identity: str) -> Path:
        """Take an artifact out of the store, so that its stage runs again; what it held is kept aside."""
        ...

    def identities(self, older_than_s: float = float("-inf")) -> set[str]:
        """Every artifact that is published, by anyone; only those that have been for some time, if one is given."""
        ...

    def size(self, identity: str) -> int:
        """How many bytes an artifact takes."""
        ...

    def remove(self, identity: str) -> None:
        """Delete an artifact for good; cut short, it is at least not published any more."""
        ...

    def leftovers(self) -> list[Leftover]:
        """What attempts that died, and verbs that set artifacts aside, left behind."""
        ...

    def discard(self, leftover: Leftover) -> None:
        """Delete a leftover for good."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalStore:
    """The store under `<root>/.ratchet`."""

    state: Path
    _verified: dict[str, Manifest] = field(default_factory=dict[str, Manifest], compare=False, repr=False)

    @property
    def spec(self) -> dict[str, Any]:
        return {}

    @property
    def runs(self) -> None:
        return None

    def object(self, identity: str) -> Path:
        return self.state / "objects" / identity

    def address(self, identity: str) -> str:
        return str(self.object(identity))

    def survey(self, identities: Iterable[str]) -> None:
        """Nothing: a filesystem answers at once."""

    def find(self, identity: str) -> Manifest | None:
        """The manifest of a published artifact whose files are all there in their sizes, or None if there is no such folder."""
        folder = self.object(identity)
        try:
            text = (folder / MANIFEST).read_text(encoding="utf-8")
        except FileNotFoundError:
            if folder.exists():
                raise corrupt(folder, f"{MANIFEST} is missing") from None
            return None
        manifest = parse(folder, identity, text)
        for name, entry in manifest.files.items():
            try:
                size = (folder / name).stat().st_size
            except FileNotFoundError:
                raise corrupt(folder, f"{name} is missing") from None
            if size != entry["bytes"]:
                raise corrupt(folder, f"{name} has {size} bytes, its manifest says {entry['bytes']}")
        return manifest

    def has(self, identity: str) -> bool:
        return self.object(identity).exists()

    def open(self, identity: str) -> Opened:
        folder = self.object(identity)
        manifest = self._verified.get(identity) or self.verify(identity)
        return Opened(manifest=manifest, folder=folder, parts=open_parts(self, folder, manifest))

    def file(self, identity: str, name: str) -> Path | None:
        path = self.object(identity) / name
        return path if path.is_file() else None

    def verify(self, identity: str) -> Manifest:
        folder = self.object(identity)
        manifest = self.find(identity)
        if manifest is None:
            raise CorruptArtifact(f"{folder} is not published")
        for name, entry in manifest.files.items():
            if (found := file_sha256(folder / name)) != entry["sha256"]:
                raise corrupt(folder, f"{name} has sha256 {found[:16]}…, its manifest says {entry['sha256'][:16]}…")
        self._verified[identity] = manifest
        return manifest

    def made(self, identity: str) -> dict[str, Any]:
        with suppress(FileNotFoundError, ValueError):
            found: dict[str, Any] = json.loads((self.object(identity) / MADE).read_text())
            return found
        return {}

    def draft(self, identity: str, attempt: str) -> Path:
        folder = self.state / "drafts" / f"{identity}.{attempt}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def publish(self, draft: Path, **facts: Unpack[Facts]) -> tuple[Manifest, bool]:
        manifest = seal(draft, facts)
        if self.place(draft, manifest.identity):
            return manifest, True
        winner = self.find(manifest.identity)
        assert winner is not None, "the rename found an object that is not there"
        note_difference(self.state, manifest, winner)
        shutil.rmtree(draft, ignore_errors=True)
        return winner, False

    def place(self, draft: Path, identity: str) -> bool:
        """Give a sealed draft its place by one rename; False if there is an artifact already."""
        target = self.object(identity)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        sync(target.parent)
        return True

    def publish_json(self, name: str, value: Mapping[str, Any], *, kind: str) -> Manifest:
        return publish_json(self, name, value, kind)

    def quarantine(self, identity: str) -> Path:
        aside = self.state / "quarantine" / f"{identity}.{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        self._verified.pop(identity, None)
        self.object(identity).rename(aside)
        return aside

    def identities(self, older_than_s: float = float("-inf")) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.state / "objects") if time.time() - entry.stat().st_mtime > older_than_s}
        except FileNotFoundError:
            return set()

    def size(self, identity: str) -> int:
        return bytes_in(self.object(identity))

    def remove(self, identity: str) -> None:
        going = self.state / "drafts" / f"{identity}.removed-{uuid.uuid4().hex}"
        going.parent.mkdir(parents=True, exist_ok=True)
        self._verified.pop(identity, None)
        with suppress(FileNotFoundError):
            self.object(identity).rename(going)
            shutil.rmtree(going)

    def leftovers(self) -> list[Leftover]:
        whys = {"drafts": "an attempt that ended without publishing", "quarantine": "set aside by `retry`"}
        folders = [(folder, why) for name, why in whys.items() if (self.state / name).is_dir() for folder in sorted((self.state / name).iterdir())]
        return [Leftover(identity=f.name.partition(".")[0], where=str(f), why=why, bytes=bytes_in(f)) for f, why in folders]

    def discard(self, leftover: Leftover) -> None:
        shutil.rmtree(leftover.where, ignore_errors=True)


def open_parts(store: Store, where: str | Path, manifest: Manifest) -> tuple[Opened, ...]:
    """The shards of an artifact, each opened, each the one it was made of."""
    parts = tuple(store.open(part["identity"]) for part in manifest.parts)
    for stated, part in zip(manifest.parts, parts, strict=True):
        if part.manifest.digest != stated["digest"]:
            raise corrupt(where, f"its shard {stated['identity']} has digest {part.manifest.digest}, it was made of {stated['digest']}")
    return parts


def publish_json(store: Store, name: str, value: Mapping[str, Any], kind: str) -> Manifest:
    """Publish one JSON value as an artifact of its own, named by its content."""
    identity = digest({"kind": kind, "value": value})
    if found := store.find(identity):
        return found
    draft = store.draft(identity, uuid.uuid4().hex[:8])
    (draft / name).write_bytes(canonical(value) + b"\n")
    return store.publish(draft, identity=identity, kind=kind)[0]


def bytes_in(folder: Path) -> int:
    """What the files under a folder take."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
