"""A run as a measured series: of each round by what exam it was measured, what it answered on each held-out item, what it had cost.

All of it is read back from ledger and store without holding the run; what the store has no more is said (`Round.gap`), not guessed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from ratchet.artifacts import Opened
from ratchet.champions import headline_of
from ratchet.errors import InputError, RatchetError
from ratchet.flows.devices import devices
from ratchet.flows.summary import RoundSummary, RunSummary, summary_of
from ratchet.identity import locate
from ratchet.infra.ledger import Event
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.stores import GLANCE_S, enter, place_of, recorded
from ratchet.stages import ITEMS, purpose_of

T = TypeVar("T")

OF_THE_WORK = {"rows_per_shard", "shard_by_group", "batch_size", "workers"}
"""Fields that say how a component works, not what it finds."""


def measures(verb: str, title: str) -> bool:
    """Whether a stage only measures, for a report or for gates: what it takes is not what a round costs."""
    return verb == "gate" or purpose_of(verb, title).split(" ")[0] in ("evaluation", "gates", "benchmark", "probe")


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What makes two measurements the same question, as far as the ledger tells; None: it does not."""

    problems: str | None
    """Digest of the held-out problems."""
    verifier: Mapping[str, Any] | None
    """What decides whether a rollout is right, as a description."""
    judges: Mapping[str, str]
    """Role → digest of the model that the verdict asks; a model that only rewards is not among them."""
    evaluation: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What was spent up to the end of a round, measuring left out; work that was found and not made again counts as if it had been made."""

    samples: float = 0.0
    """Rollouts drawn: to train on, to probe, to train a process-reward model."""
    tokens: float = 0.0
    """Tokens trained on, as far as trainers say (`tokens`)."""
    cpu_seconds: float = 0.0
    """Seconds of the attempts that published, each times the CPUs that its executor gave it."""
    gpu_seconds: float = 0.0
    """The same times the GPUs that were asked for; 0 where none were asked for by the executor."""

    def plus(self, other: "Cost") -> "Cost":
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in ("samples", "tokens", "cpu_seconds", "gpu_seconds")})


@dataclass(kw_only=True)
class Round:
    """A measured round."""

    run: "Measured"
    summary: RoundSummary
    exam: Exam
    cost: Cost
    """Of this round and all before it."""

    @property
    def index(self) -> int:
        return self.summary.round

    @cached_property
    def items(self) -> dict[str, Mapping[str, Any]]:
        """problem_id → what its policy answered; empty if that cannot be read any more (`gap` says why)."""
        opened = self.run.opened(self.summary.report)
        if isinstance(opened, str) or not (opened.folder / ITEMS).is_file():
            return {}
        rows = [json.loads(line) for line in (opened.folder / ITEMS).read_text(encoding="utf-8").splitlines()]
        return {str(row["problem_id"]): row for row in rows if "problem_id" in row}

    @property
    def gap(self) -> str:
        """Why there are no items."""
        opened = self.run.opened(self.summary.report)
        why = opened if isinstance(opened, str) else "its evaluation keeps no row per problem"
        return f"no answer per problem is left of round {self.index} of {self.run.name}: {why}"


@dataclass(frozen=True)
class Trail:
    """The stages that a ledger names, found by what they published: who made what of what."""

    stages: Mapping[str, tuple[Event, ...]]
    """Identity → the places at which it was asked for."""
    published: Mapping[str, Event]
    makers: Mapping[str, tuple[str, ...]]
    """Digest → identities that published it."""
    executors: Mapping[str, Mapping[str, Any]]
    """Identity → the executor of the driver that wrote it down."""

    def maker(self, digest: str, verb: str, round: int) -> Event | None:
        """The stage of a verb that published something, at the place nearest to a round's; None for what the ledger does not name."""
        places = [place for identity in self.makers.get(digest, ()) for place in self.stages.get(identity, ()) if place["verb"] == verb]
        return min(places, key=lambda place: (abs(place["round"] - round), place["number"]), default=None)

    def digest_of(self, identity: str) -> str | None:
        return self.published[identity]["digest"] if identity in self.published else None


@dataclass(kw_only=True)
class Measured:
    """A run, its rounds and what they point to."""

    name: str
    summary: RunSummary
    trail: Trail
    store: Store | None
    """None: it did not answer."""
    rounds: list[Round] = field(default_factory=list[Round])
    _opened: dict[str, Opened | str] = field(default_factory=dict[str, Opened | str])
    _remembered: dict[str, Any] = field(default_factory=dict[str, Any])

    def remembered(self, what: str, find: Callable[[], T]) -> T:
        """What was found at the first time of asking."""
        if what not in self._remembered:
            self._remembered[what] = find()
        return cast(T, self._remembered[what])

    def opened(self, identity: str) -> Opened | str:
        """An artifact of the run, verified, or why it cannot be had."""
        if identity not in self._opened:
            self._opened[identity] = self._open(identity)
        return self._opened[identity]

    def _open(self, identity: str) -> Opened | str:
        if self.store is None:
            return "the store does not answer"
        try:
            if self.store.find(identity) is None:
                return f"the artifact {identity[:8]} is not in the store (deleted by `ratchet gc`, or set aside by `ratchet retry`)"
            return self.store.open(identity)
        except (RatchetError, OSError) as error:
            return str(error).splitlines()[0]

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that its evaluation says matter, of those that it measured; the first is the main one."""
        known = {name for row in self.rounds for name in row.summary.metrics}
        return tuple(name for name in headline_of(self.summary.config) if name in known) or tuple(sorted(known))[:1]

    @property
    def champion(self) -> Round | None:
        """The round whose policy is the best, by its gates, its main metric, or somebody's hand."""
        return next((row for row in self.rounds if row.summary is self.summary.champion), None)


def measured(run: RunFolder, *, elsewhere: str | None = None) -> Measured:
    """Read a run back; its ledger's copy is as the caller left it, and `elsewhere` what that found (`stores.refresh`)."""
    summary = summary_of(run, elsewhere=elsewhere)
    trail = _trail(run.ledger)
    found = Measured(name=run.name, summary=summary, trail=trail, store=_store(run))
    costs = _costs(summary, trail)
    spent = Cost()
    for row in summary.rounds:
        spent = spent.plus(costs.get(row.round, Cost()))
        found.rounds.append(Round(run=found, summary=row, exam=_exam(row, trail), cost=spent))
    return found


def _store(run: RunFolder) -> Store | None:
    spec = recorded(run)
    try:
        glance = {**spec, "patience_s": GLANCE_S, "timeout_s": GLANCE_S} if spec and place_of(spec) else spec
        return enter(run, glance, lambda text: None)
    except (RatchetError, OSError):
        return None


def _trail(ledger: Iterable[Event]) -> Trail:
    stages: dict[str, list[Event]] = {}
    published: dict[str, Event] = {}
    executors: dict[str, Mapping[str, Any]] = {}
    executor: Mapping[str, Any] = {}
    for event in ledger:
        match event["kind"]:
            case "run":
                executor = event["config"].get("executor") or {}
            case "driver":
                executor = event["operations"].get("executor") or executor
            case "stage":
                stages.setdefault(event["identity"], []).append(event)
            case "published":
                published[event["identity"]], executors[event["identity"]] = event, executor
            case "retried":
                published = {identity: made for identity, made in published.items() if identity not in event["identities"]}
    makers: dict[str, list[str]] = {}
    for identity, event in published.items():
        makers.setdefault(event["digest"], []).append(identity)
    return Trail(
        stages={identity: tuple(found) for identity, found in stages.items()},
        published=published,
        makers={digest: tuple(found) for digest, found in makers.items()},
        executors=executors,
    )


def _costs(summary: RunSummary, trail: Trail) -> dict[int, Cost]:
    """Round → what it cost; a stage at two places is paid for at the first."""
    paid = set[str]()
    costs: dict[int, Cost] = {}
    for stage in summary.stages:
        if stage.digest is None or stage.identity in paid or measures(stage.verb, stage.title):
            continue
        paid.add(stage.identity)
        cpus, gpus = devices(trail.executors.get(stage.identity, {}), stage.verb, gpu_here=False)  # which it was, no ledger tells
        seconds = trail.published[stage.identity]["seconds"] if stage.identity in trail.published else stage.seconds
        cost = Cost(
            samples=stage.metrics.get("rollouts", 0.0) if stage.verb == "synthesize" else 0.0,
            tokens=stage.metrics.get("tokens", 0.0) if stage.verb in ("create", "train") else 0.0,
            cpu_seconds=seconds * cpus,
            gpu_seconds=seconds * gpus,
        )
        costs[stage.round] = costs.get(stage.round, Cost()).plus(cost)
    return costs


def _exam(row: RoundSummary, trail: Trail) -> Exam:
    places = trail.stages.get(row.report, ())
    if not places:
        return Exam(problems=None, verifier=None, judges={}, evaluation=None)
    evaluated = min(places, key=lambda place: abs(place["round"] - row.round))
    verified, drawn = _asked_of(evaluated, trail, row.round)
    verifier = verified["essence"]["component"] if verified else None
    verdict = _verdict(verifier) if verifier else None
    inputs = verified["essence"]["inputs"] if verified else {}
    judges = {name.removeprefix("role:"): value for name, value in inputs.items() if name.startswith("role:") and verdict is verifier}
    problems = drawn["essence"]["inputs"].get("problems") if drawn else None
    return Exam(problems=problems, verifier=_found(verdict), judges=judges, evaluation=_found(evaluated["essence"]["component"]))


def _asked_of(evaluated: Event, trail: Trail, round: int) -> tuple[Event | None, Event | None]:
    """The stages that verified and drew what an evaluation read: its greedy rollouts, else the first that there are."""
    inputs = evaluated["essence"]["inputs"]
    for digest in _digests({"greedy": inputs.get("greedy"), **inputs}):
        if verified := trail.maker(digest, "verify", round):
            drawn = next((found for given in _digests(verified["essence"]["inputs"]) if (found := trail.maker(given, "synthesize", round))), None)
            return verified, drawn
    return None, None


def _digests(inputs: Mapping[str, Any]) -> Iterator[str]:
    for given in inputs.values():
        yield from [given] if isinstance(given, str) else (given or {}).values()


def _verdict(verifier: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a verifier that says what is right."""
    name = verifier["component"]
    passes_on = getattr(_class(name), "verdict_of", None)
    found = verifier["fields"].get(passes_on) if passes_on else None
    return _verdict(found) if isinstance(found, Mapping) else verifier


def _class(dotted: str) -> Any:
    try:
        return locate(dotted)
    except InputError:  # a part of somebody's own that is not here: it can say nothing of itself
        return None


def _found(description: Any) -> Any:
    """A description without what only says how the work is done."""
    if isinstance(description, Mapping):
        return {key: _found(value) for key, value in description.items() if key not in OF_THE_WORK}
    return description


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file of an artifact; none if it has no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
