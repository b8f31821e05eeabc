"""The ledger: what happened in a run, one event a file, appended and never changed. It is the only truth.

Kinds of events, in the order a run meets them:

| kind | says |
|---|---|
| `run` | the composed config, its science hash, seed, versions: the run exists |
| `driver` | a process took the run in hand (host, pid, command, what operations it changed) |
| `stage` | a stage was asked: its place (round, verb, ordinal, cell), identity and essence |
| `attempt` | one try at it (or at one of its shards) was submitted: number, executor, job |
| `published` | its artifact stands: digest, rows, metrics, seconds, and whether it was found rather than made |
| `failed` | an attempt ended without publishing: state and reason |
| `decision` | what a controller set, and the artifact with all it was decided on |
| `advanced` | a round ended: its state's artifact, roles, knobs, metrics |
| `retried` | artifacts that were set aside, so that their stages run again |
| `finished` / `stopped` | the last round ended / the run ended early, and why |
"""

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical
from ratchet.infra.store import sync

Event = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """The events of one run, in a folder."""

    folder: Path
    _cache: dict[str, Event] = field(default_factory=dict[str, Event], compare=False, repr=False)
    _last: list[int] = field(default_factory=list[int], compare=False, repr=False)
    """The number of the event that this writer appended last; empty before its first."""

    def __iter__(self) -> Iterator[Event]:
        """Every event, oldest first."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".json"))
        except FileNotFoundError:
            return
        for name in names:
            if name not in self._cache:
                self._cache[name] = self._read(name)
            yield self._cache[name]

    def _read(self, name: str) -> Event:
        try:
            event: Event = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorruptArtifact(f"the ledger's event {self.folder / name} cannot be read ({error})") from None
        return event

    def append(self, kind: str, **fields: Any) -> Event:
        """Add an event: durable when this returns, and whole or not there at every moment before. Whoever appends holds the lease."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{uuid.uuid4().hex}"
        number = (self._last[0] if self._last else sum(1 for _ in self)) + 1
        while True:
            event = {"kind": kind, "number": number, "at": time.time(), **fields}
            with temporary.open("wb") as file:
                file.write(canonical(event))
                file.flush()
                os.fsync(file.fileno())
            name = f"{number:06d}-{kind}.json"
            if not self._place(temporary, name):
                number += 1
                continue
            self._cache[name] = event
            self._last[:] = [number]
            return event

    def _place(self, temporary: Path, name: str) -> bool:
        """Give the event its name, unless there is one of that name: `link` never replaces."""
        try:
            os.link(temporary, self.folder / name)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        sync(self.folder)
        return True


def results(ledger: Iterable[Event]) -> list[tuple[Any, ...]]:
    """What a run made, without times, hosts and attempts: equal for a run that was killed and one that was not."""
    events = list(ledger)
    stages = {(e["round"], e["verb"], e["ordinal"], e["cell"] or ""): e["identity"] for e in events if e["kind"] == "stage"}
    digests = {e["identity"]: e["digest"] for e in events if e["kind"] == "published"}
    return [(*place, identity, digests.get(identity)) for place, identity in sorted(stages.items())]
