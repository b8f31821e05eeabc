"""The ledger: what happened in a run, one event a file, appended and never changed. It is the only truth.

An event's number is its file's name, and a name is given once: of two writers that both believe to hold the run, the second to take a
number is told so. A run whose store is elsewhere keeps its ledger there (`Remote`); the folder is then a copy that is brought up to
date when the run is opened, and an event is in it only after it is there.

Every event says up to which number the ledger was flushed when it was written (`settled`). What a power failure tore is beyond that,
and is as if it had never been appended; an event up to there that cannot be read is damage, and is named.

Kinds of events, in the order a run meets them:

| kind | says |
|---|---|
| `run` | the composed config, its science hash, seed, versions: the run exists |
| `driver` | a process took the run in hand (host, pid, command, what operations it changed) |
| `stage` | a stage was asked: its place (round, verb, ordinal, cell), identity and essence |
| `attempt` | one try at it (or at one of its shards) was submitted: number, executor, job |
| `published` | its artifact stands: digest, rows, metrics, seconds, and whether it was found rather than made |
| `attached` | an attempt of a driver before this one was found alive |
| `lost` | an attempt was preempted, timed out or gone with its node: the stage is begun again |
| `forked` | another run was begun from a round of this one |
| `promoted` | somebody made a round's policy the champion, of the run or of the registered `model` that is named; no loop reads it |
| `cancelled` | `ratchet cancel` ended jobs |
| `failed` | an attempt ended without publishing: state and reason |
| `decision` | what a controller set, and the artifact with all it was decided on |
| `judged` | the gates had their say on a round's candidate: the verdict's artifact, each gate's word, and what follows from it |
| `advanced` | a round ended: its state's artifact, roles, knobs, metrics |
| `retried` | artifacts that were set aside, so that their stages run again |
| `collected` | an artifact that `ratchet gc` deleted, and what the loop may still ask of it |
| `finished` / `stopped` | the last round ended / the run ended early, and why |
"""

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ratchet.errors import CorruptArtifact, InputError, RunHeld
from ratchet.identity import canonical
from ratchet.infra.manifests import sync_all

Event = dict[str, Any]


class Remote(Protocol):
    """Where a ledger is kept when its folder is only a copy."""

    def names(self, after: str = "") -> list[str]:
        """The events' names, in order; those after one, if it is given."""
        ...

    def read(self, names: Iterable[str]) -> Mapping[str, bytes]:
        """Events by name."""
        ...

    def place(self, name: str, event: bytes) -> bool:
        """Give an event its name; False if that is taken."""
        ...


@dataclass(frozen=True)
class Ledger:
    """The events of one run, in a folder."""

    folder: Path
    _cache: dict[str, Event] = field(default_factory=dict[str, Event], compare=False, repr=False)
    _last: list[int] = field(default_factory=list[int], compare=False, repr=False)
    """The number of the event that this writer appended last; empty before its first."""
    _unflushed: list[str] = field(default_factory=list[str], compare=False, repr=False)
    """What this writer appended and did not flush, oldest first."""
    _remote: list[Remote] = field(default_factory=list[Remote], compare=False, repr=False)
    """One, if the ledger follows one."""

    def __iter__(self) -> Iterator[Event]:
        """Every event, oldest first."""
        names = self._names()
        torn = frozenset[str]()
        for name in names:
            if name not in torn:
                try:
                    yield self._read(name)
                except CorruptArtifact:
                    if name not in (torn := frozenset(self._torn(names))):
                        raise

    def _names(self) -> list[str]:
        try:
            return sorted((entry.name for entry in os.scandir(self.folder) if _is_event(entry.name)), key=_number)
        except FileNotFoundError:
            return []

    def _read(self, name: str) -> Event:
        if name not in self._cache:
            try:
                self._cache[name] = json.loads((self.folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise CorruptArtifact(f"the ledger's event {self.folder / name} cannot be read ({error})") from None
        return self._cache[name]

    def _beyond(self, names: list[str]) -> list[str]:
        """The events that nobody said to be flushed, newest first."""
        beyond, settled = list[str](), 0
        for name in reversed(names):
            if _number(name) <= settled:
                break
            beyond.append(name)
            with suppress(CorruptArtifact):
                settled = max(settled, self._read(name).get("settled", _number(name)))
        return beyond

    def _torn(self, names: list[str]) -> list[str]:
        """Those of them that cannot be read: a power failure came before they were appended."""
        return [name for name in self._beyond(names) if name not in self._cache]

    def append(self, kind: str, *, flush: bool = True, **fields: Any) -> Event:
        """Add an event: durable when this returns, and whole or not there at every moment before. Whoever appends holds the lease.

        One that is not flushed becomes durable with the next that is: for what a power failure makes void anyway. RunHeld if the
        event's number is taken: then another driver has the run in hand by now.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        number = (self._last or [self._recover()])[0] + 1
        event = {"kind": kind, "number": number, "at": time.time(), "settled": number - 1 - len(self._unflushed), **fields}
        name, text = f"{number:06d}.json", canonical(event)
        if not all(remote.place(name, text) for remote in self._remote) or not self._place(name, text):
            raise RunHeld(
                f"another driver wrote event {number} of {self.folder} while this one held the run: it stood still, and the run was taken over\n"
                "  next: nothing that is published is lost; let the other driver go on, or end it and give the same command again"
            )
        self._cache[name] = event
        self._last[:] = [number]
        self._unflushed.append(name)
        if flush:
            self._flush()
        return event

    def _recover(self) -> int:
        """Take the ledger up as the writer before left it; return the number of its last event."""
        beyond = self._beyond(self._names())
        for name in beyond:
            if name not in self._cache:
                (self.folder / name).unlink()
        names = self._names()
        self._unflushed[:] = [name for name in reversed(beyond) if name in self._cache]
        self._flush()
        return _number(names[-1]) if names else 0

    def _flush(self) -> None:
        if self._unflushed:
            sync_all([*(self.folder / name for name in self._unflushed), self.folder])
            self._unflushed.clear()

    def _place(self, name: str, text: bytes, *, whole: bool = False) -> bool:
        """Give the event its name, unless there is another of that name: `link` never replaces. Flushed before if it must be whole."""
        temporary = self.folder / f".{uuid.uuid4().hex}"
        with temporary.open("wb") as file:
            file.write(text)
            if whole:
                file.flush()
                os.fsync(file.fileno())
        try:
            os.link(temporary, self.folder / name)
        except FileExistsError:  # another's; or this one, by a network filesystem's second try or by who copied it from the remote
            return (self.folder / name).read_bytes() == text
        finally:
            temporary.unlink()
        return True

    def follow(self, remote: Remote, where: str) -> None:
        """Keep this ledger at a remote from now on: bring the copy up to date, and append there first.

        A copy that says what the remote does not is of a run of that name that is gone there: it is put aside.
        """
        copied, there = self._names(), remote.names()
        if torn := self._torn(copied):  # by a power failure: what follows is copied again
            for name in copied[copied.index(torn[-1]) :]:
                (self.folder / name).unlink()
                self._cache.pop(name, None)
            copied = self._names()
        if copied and not there:
            raise InputError(
                f"the ledger in {self.folder} is of a run that {where} knows nothing of: it was made with another store, or was deleted there",
                next="give the command with the store that it was made with, take another --name, or `ratchet delete` it",
            )
        if copied and (not set(copied) <= set(there) or remote.read(there[:1])[there[0]] != (self.folder / copied[0]).read_bytes()):
            self.folder.rename(self.folder.with_name(f"ledger.stale-{time.time_ns()}"))
            self._cache.clear()
            self._last.clear()
        self._remote[:] = [remote]
        self.catch_up()

    def catch_up(self) -> None:
        """Copy what the remote has beyond this folder, in order, so that a copy cut short is one of an earlier moment."""
        for remote in self._remote:
            copied = self._names()
            missing = remote.names(after=copied[-1] if copied else "")
            events = remote.read(missing)
            if missing:
                self.folder.mkdir(parents=True, exist_ok=True)
            for name in missing:
                self._place(name, events[name], whole=True)


def _is_event(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _number(name: str) -> int:
    """An event's number: `000012.json`, or `000012-stage.json` as it was called once."""
    return int(name.removesuffix(".json").partition("-")[0])


def results(ledger: Iterable[Event]) -> list[tuple[Any, ...]]:
    """What a run made, without times, hosts and attempts: equal for a run that was killed and one that was not."""
    events = list(ledger)
    stages = {(e["round"], e["verb"], e["ordinal"], e["cell"] or ""): e["identity"] for e in events if e["kind"] == "stage"}
    digests = {e["identity"]: e["digest"] for e in events if e["kind"] == "published"}
    return [(*place, identity, digests.get(identity)) for place, identity in sorted(stages.items())]
