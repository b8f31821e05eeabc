"""What a run may use, and when it has gained enough: caps and a stop rule, both operations that may be changed on any resume.

Caps (`budget.…`, null: none) are looked at before anything is made that is not there yet, so a run that reached one ends at a stage
boundary; what was begun is brought to its end, and may go past the cap. Counted is what this run made, evaluation and gates included,
and not what it found: `samples` and `tokens` drawn by synthesizers, `cpu_hours` and `gpu_hours` of the attempts that published, times
what the executor gave them, `bytes` published, `seconds` during which a driver had the run in hand, `rounds` that ended. What lost and
failed attempts burnt is in `seconds` only.

`patience` is the number of rounds in a row, none of which has to be better than the round before them (pass@1 or what the evaluation
names first, on the same items, 95 %, Holm's correction over the rounds), after which no further round is begun.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratchet.errors import InputError, RatchetError
from ratchet.flows.devices import devices, has_gpu
from ratchet.infra.ledger import Event, Ledger
from ratchet.infra.store import Store
from ratchet.stages import ITEMS, Stage

CAPS = ("rounds", "samples", "tokens", "gpu_hours", "cpu_hours", "seconds", "bytes")


class BudgetSpent(RatchetError):
    """A cap is reached: the run ends where it stands, as planned."""

    exit_code = 0


def checked(budget: Any) -> dict[str, float]:
    """The caps that a config sets."""
    given = dict(budget or {})
    if unknown := sorted(given.keys() - set(CAPS)):
        raise InputError(f"there is no budget of {unknown[0]}", allowed=", ".join(CAPS))
    for name, cap in given.items():
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 <= cap < math.inf):
            raise InputError(f"budget.{name} has a wrong value", got=repr(cap), allowed="a number from 0, or null for no cap")
    return {name: cap for name, cap in given.items() if cap is not None}


@dataclass
class Budget:
    """A run's caps, and what it has used of each."""

    name: str
    caps: Mapping[str, float]
    ledger: Ledger
    store: Store
    clock: Callable[[], float] = time.time
    used: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAPS, 0.0))
    _verbs: dict[str, str] = field(default_factory=dict[str, str])
    _sized: set[str] = field(default_factory=set[str])
    _rounds: set[int] = field(default_factory=set[int])
    _executor: Mapping[str, Any] = field(default_factory=dict[str, Any])
    _turn: tuple[float, float] = (0.0, 0.0)
    """When the present turn of a driver began, and its last event; 0 before the first."""
    _before: float = 0.0
    """Seconds of the turns before the present one."""
    _read: int = 0

    def check(self, stages: Sequence[Stage]) -> None:
        """Raise if a cap is reached and any of the stages is still to be made."""
        if self.caps and any(not self.store.find(stage.identity) for stage in stages):
            self.count()
            if reached := self.reached():
                raise BudgetSpent(f"{reached}; stopped before {stages[0].title}{self._next()}")

    def enough(self) -> str | None:
        """Why no further round is to begin."""
        if "rounds" not in self.caps:
            return None
        self.count()
        reached = self.reached(("rounds",))
        return f"{reached}{self._next()}" if reached else None

    def reached(self, names: Sequence[str] = CAPS[1:]) -> str:
        """The first cap that is reached, in words; nothing if none is. (Rounds are looked at between rounds.)"""
        for name in names:
            if name in self.caps and self.used[name] >= self.caps[name]:
                return f"the budget of {self.caps[name]:g} {name.replace('_', '-')} is spent: {self.used_words()}"
        return ""

    def used_words(self) -> str:
        shown = [name for name in CAPS if name in self.caps or self.used[name]]
        return "used " + ", ".join(f"{_number(self.used[name])} {name.replace('_', '-')}" for name in shown)

    def _next(self) -> str:
        caps = " ".join(f"budget.{name}={cap:g}" for name, cap in self.caps.items())
        return f" (`ratchet resume {self.name} {caps}` with a higher cap, or null for none, goes on from here)"

    def count(self) -> None:
        """Take in what the ledger says since the last time."""
        for event in self.ledger:
            if event["number"] > self._read:
                self._take(event)
                self._read = event["number"]
        self.used["seconds"] = self._before + max(0.0, self.clock() - self._turn[0]) if self._turn[0] else 0.0

    def _take(self, event: Event) -> None:
        match event["kind"]:
            case "driver":
                self._before += max(0.0, self._turn[1] - self._turn[0])
                self._turn = (event["at"], event["at"])
                self._executor = event["operations"].get("executor") or {}
            case "stage":
                self._verbs[event["identity"]] = event["verb"]
            case "advanced" if self._turn[0]:  # what a fork took over stands before its first driver
                self._rounds.add(event["round"])
                self.used["rounds"] = len(self._rounds - {0})
            case "published" if not event["shared"]:
                self._pay(event)
        if self._turn[0] and event["kind"] != "forked":
            self._turn = (self._turn[0], max(self._turn[1], event["at"]))

    def _pay(self, event: Event) -> None:
        identity = event["identity"]
        if "bytes" in self.caps and identity not in self._sized:
            self._sized.add(identity)
            self.used["bytes"] += self.store.size(identity)
        if (verb := self._verbs.get(identity)) is None:  # a shard: its stage will tell for all of them
            return
        cpus, gpus = devices(self._executor, verb, gpu_here=has_gpu())
        self.used["cpu_hours"] += event["seconds"] * cpus / 3600
        self.used["gpu_hours"] += event["seconds"] * gpus / 3600
        if verb == "synthesize":
            self.used["samples"] += event["metrics"].get("rollouts", 0.0)
            self.used["tokens"] += event["metrics"].get("tokens", 0.0)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


@dataclass(frozen=True)
class Patience:
    """The stop rule: no significant gain in so many rounds."""

    rounds: int
    metric: str
    store: Store

    def over(self, reports: Sequence[str]) -> str | None:
        """Why it is over, from the reports of rounds 0 to the last one that ended; None if it is not, or if that cannot be told."""
        from ratchet.flows.statistics import ALPHA, holm, paired

        if len(reports) <= self.rounds:
            return None
        before, *after = [self._items(report) for report in reports[-1 - self.rounds :]]
        found = []
        for items in after:
            both = [id for id in before if id in items]
            if not both:
                return None
            found.append(paired([before[id] for id in both], [items[id] for id in both]))
        corrected = holm([pair.p for pair in found])
        if any(p < ALPHA and pair.difference > 0 for p, pair in zip(corrected, found, strict=True)):
            return None
        best = max(found, key=lambda pair: pair.difference)
        last = len(reports) - 1
        words = f"no significant gain of {self.metric} in {self.rounds} rounds: since round {last - self.rounds} at most {100 * best.difference:+.1f}"
        return f"{words} points on {best.items} items; stopped as patience={self.rounds} says (patience=null goes on)"

    def _items(self, report: str) -> dict[str, float]:
        """problem_id → its value; none where the report has no rows, or is gone."""
        from ratchet.flows.comparison import item_value

        if self.store.find(report) is None:
            return {}
        path = self.store.open(report).folder / ITEMS
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
        return {str(row["problem_id"]): value for row in rows if (value := item_value(row, self.metric)) is not None}
