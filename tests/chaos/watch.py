"""What the queue showed while a run was disturbed, looked at five times a second, and which stage each job was for."""

import json
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.infra.claims import INTERRUPTED
from tests.chaos.site import Site

EVERY_S = 0.2

ROUND = "ratchet-round-"
"""How allocations are called."""

Place = tuple[str, int]
"""A batch's name, and a job's index in it."""
Attempt = tuple[str, int, str]
"""A unit's identity, the number of the attempt, and its ticket if it is a step of an allocation."""


@dataclass
class Watcher:
    """Looks on in a thread of its own from `start` to `stop`."""

    site: Site
    root: Path
    units: dict[Place, set[Attempt]] = field(default_factory=lambda: defaultdict[Place, set[Attempt]](set))
    jobs: dict[str, Place] = field(default_factory=dict[str, Place])
    alive: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When a unit had a living job."""
    states: dict[str, str] = field(default_factory=dict[str, str])
    changes: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """When a job went over into another state, and which."""
    twice: list[str] = field(default_factory=list[str])
    """Units that had two at a time."""

    def start(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _go(self) -> None:
        while not self._over.wait(EVERY_S):
            with suppress(AssertionError):  # the controller does not answer
                self.look()

    def look(self) -> None:
        self._learn()
        queue = [line.split() for line in self.site.queue()]
        now = time.monotonic()
        self._learn()  # of what was submitted meanwhile
        self._note({id: state for id, _, state in queue}, now)
        living = defaultdict[str, set[str]](set)
        for id, name, state in queue:
            self.jobs[id] = place = place_of(name, id)
            for attempt in self.units.get(place, ()):
                if state != "COMPLETING" and not self._is_done(*attempt):
                    living[attempt[0]].add(f"{id} {state}")
        for identity, jobs in living.items():
            self.alive[identity].append(now)
            if len(jobs) > 1:
                self.twice.append(f"{identity[:8]} had {len(jobs)} living jobs at once: {', '.join(sorted(jobs))}")

    def _note(self, states: dict[str, str], now: float) -> None:
        for id in sorted({*states, *self.states}):
            if self.states.get(id) != states.get(id):
                self.changes.append((now, f"{id} {states.get(id, 'over')}"))
        self.states = states

    def _learn(self) -> None:
        """Of every claim, which jobs it knows: recorded, intended, or given up."""
        for folder in (self.root / ".ratchet" / "claims").glob("*"):
            for path in (folder / "intent.json", *folder.glob("attempts/*/intent.json")):
                if intent := read(path):
                    self.units[intent["name"], intent["index"]].add((folder.name, intent["attempt"], ""))
            if (job := read(folder / "job.json")) and "job_id" in job["job"]:
                self.units[place_of(job["job"]["name"], job["job"]["job_id"])].add((folder.name, job["attempt"], job["job"].get("ticket", "")))

    def _is_done(self, identity: str, attempt: int, ticket: str) -> bool:
        """Whether the attempt said its last word (its job is only about to leave), or its step is over."""
        if ticket and Path(ticket).with_suffix(".done").exists():
            return True
        word = read(self.root / ".ratchet" / "claims" / identity / f"attempts/{attempt}/exit.json")
        return word is not None and word["state"] != INTERRUPTED

    def told(self, born: float) -> list[str]:
        """What the jobs did."""
        return [f"{at - born:6.1f} s      job {words}" for at, words in self.changes]

    def strangers(self) -> list[str]:
        """Jobs that belonged to no claim at any moment; but an allocation whose driver died before it put in a ticket leaves by itself."""
        return sorted({f"{id} {name}" for id, (name, index) in self.jobs.items() if (name, index) not in self.units and not name.startswith(ROUND)})

    def was_alive(self, identity: str, since: float, until: float) -> bool:
        """Whether a unit had a living job at some time of a span, widened by what may have been between two looks."""
        return any(since - 1 <= at <= until + 1 for at in self.alive[identity])


def place_of(name: str, id: str) -> Place:
    return name, int(id.partition("_")[2] or 0)


def read(path: Path) -> Any:
    """A file that others write and remove meanwhile; None if it is not there or not whole."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return None
