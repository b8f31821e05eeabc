"""What would run, what would be reused, and why: exact up to the first stage that is missing, then what it depends on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ratchet.artifacts import Artifact, Grid
from ratchet.errors import RatchetError
from ratchet.flows.build import build
from ratchet.flows.collected import collected
from ratchet.flows.compose import Config, default_name, differing, science
from ratchet.flows.driver import recipe_of
from ratchet.flows.gating import Gating
from ratchet.flows.loop import Journal, Stages, self_train
from ratchet.flows.states import begun, forked_from
from ratchet.identity import source_digest
from ratchet.infra.ledger import Event
from ratchet.infra.runs import RunFolder, runs_under
from ratchet.infra.store import Store
from ratchet.infra.stores import enter
from ratchet.rounds import RoundState
from ratchet.stages import Stage, knobs_of

PENDING = "pending"


class Unknown(float):
    """A knob that a controller has yet to set; stands for a number so that components can hold it."""


class UnknownKnobs(dict[str, float]):
    """Whatever a controller will set."""

    def __missing__(self, name: str) -> float:
        return Unknown(1.0)


@dataclass(frozen=True)
class Line:
    """One stage of a plan."""

    title: str
    identity: str | None
    """None while an input is missing."""
    fate: Literal["reuse", "run", "unknown"]
    why: str
    round: int
    warning: str = ""


class _RoundPlanned(RatchetError):
    """The round in which the first missing stage stands is planned to its end; what follows depends on it."""


@dataclass
class Planner(Journal):
    """Makes nothing: says of each stage asked what would become of it."""

    store: Store
    past: Mapping[tuple[Any, ...], Event]
    sources: Mapping[str, str]
    collected: Mapping[str, Artifact]
    """What `ratchet gc` deleted."""
    lines: list[Line] = dataclasses.field(default_factory=list)

    def make(self, stages: Sequence[Stage]) -> list[Artifact]:
        return [self._plan(stage) for stage in stages]

    def _plan(self, stage: Stage) -> Artifact:
        if waits := _waits_for(stage):
            self._say(stage, "unknown", f"depends on {waits}")
            return _pending(stage)
        manifest = self.store.find(stage.identity)
        if manifest is None and (artifact := self.collected.get(stage.identity)):
            self._say(stage, "reuse", f"deleted by `gc`, digest {artifact.digest[:8]}; made again only if something needs it")
            return artifact
        if manifest is None:
            missing = [shard for shard in stage.shards() if not self.store.find(shard.identity)]
            done = len(stage.shards()) - len(missing)
            self._say(stage, "run", self._why(stage) + (f"; {done} of {len(stage.shards())} shards are there" if done else ""))
            return _pending(stage)
        self._say(stage, "reuse", f"published, digest {manifest.digest[:8]}", self._warning(stage))
        return manifest.artifact

    def _say(self, stage: Stage, fate: Literal["reuse", "run", "unknown"], why: str, warning: str = "") -> None:
        self.lines.append(Line(stage.title, None if fate == "unknown" else stage.identity, fate, why, stage.round, warning))

    def _why(self, stage: Stage) -> str:
        """Which field or input differs from the last stage at the same place."""
        before = self.past.get((stage.round, stage.verb, stage.ordinal, stage.cell)) or self.past.get((stage.round, stage.verb, stage.ordinal))
        if before is None:
            return "never asked before"
        changes = [_in_words(key, old, new) for key, old, new in differing(before["essence"], stage.essence)]
        return "; ".join(changes) if changes else "asked before, not published yet"

    def _warning(self, stage: Stage) -> str:
        made = self.sources.get(stage.identity)
        now = source_digest(stage.component)
        if made and made != now:
            return f"the code of {type(stage.component).__name__} changed since, its `version` did not: raise it if results change"
        return ""


def _waits_for(stage: Stage) -> str:
    for given in stage.inputs.values():
        for artifact in [given] if isinstance(given, Artifact) else given.cells.values():
            if artifact.digest == PENDING:
                return artifact.identity
    if any(isinstance(getattr(stage.component, f.name), Unknown) for f in dataclasses.fields(stage.component)):
        return f"round {stage.round} · adjust"
    return ""


def _pending(stage: Stage) -> Artifact:
    return Artifact(identity=stage.title, digest=PENDING, kind=PENDING, rows=1)


def _in_words(key: str, old: Any, new: Any) -> str:
    """A difference between two essences, as a user would put it."""
    head, _, rest = key.partition(".")
    name = rest.replace("fields.", "")
    if head == "inputs":
        return f"the input {name.removeprefix('role:')} changed"
    if head == "component":
        return {"component": f"another component: {old} → {new}", "version": f"the component's version {old} → {new}"}.get(
            name, f"{name}: {old} → {new}"
        )
    return f"{head}: {old} → {new}"


@dataclass(frozen=True)
class Plan:
    """A plan's lines, and the run that its reasons compare with."""

    lines: Sequence[Line]
    compared: str | None
    rounds: int
    planned: int


def plan(root_run: RunFolder, config: Config) -> Plan:
    """Walk the recipe without making anything, up to the end of the round that holds the first missing stage."""
    store = enter(root_run, config.get("store"))
    past_run = _comparable(root_run, config)
    events = [event for known in _with_forked(past_run) for event in known.ledger] if past_run else []
    past: dict[tuple[Any, ...], Event] = {}
    for event in events:
        if event["kind"] == "stage":
            past[event["round"], event["verb"], event["ordinal"], event["cell"]] = event
            past[event["round"], event["verb"], event["ordinal"]] = event
    sources = {e["identity"]: e["source"] for e in events if e["kind"] == "published" and e.get("source")}
    store.survey(event["identity"] for event in events if event["kind"] == "published")
    planner = Planner(store, past, sources, collected(root_run.ledger))
    parts = build({key: value for key, value in science(config).items() if key not in ("recipe", "seed", "on_empty")})

    def knobs(artifact: Artifact) -> Mapping[str, float]:
        return UnknownKnobs() if artifact.digest == PENDING else knobs_of(store.open(artifact.identity))

    def stages(round: int) -> Stages:
        if any(line.fate != "reuse" for line in planner.lines):
            raise _RoundPlanned
        return _Planning(parts, planner.make, knobs, config["seed"], round)

    planned = config["rounds"]
    try:
        self_train(
            recipe_of(config),
            stages,
            rounds=config["rounds"],
            on_empty=config["on_empty"],
            journal=planner,
            begun=begun(root_run, store),
            gating=Gating.of(parts),
        )
    except _RoundPlanned:
        planned = max(line.round for line in planner.lines)
    return Plan(planner.lines, past_run.name if past_run else None, config["rounds"], planned)


class _Planning(Stages):
    """Stages whose knobs may be unknown yet."""

    def adjust(self, cells: Grid, problems: Artifact, using: str = "control", **changes: Any) -> Any:
        component = self._component("adjust", using, changes)
        return _Attributes(self.knobs_of(self._ask("adjust", component, {"cells": cells, "problems": problems})))


class _Attributes(dict[str, float]):
    """Knobs that answer to any name."""

    def __init__(self, values: Mapping[str, float]) -> None:
        super().__init__(values)
        self._unknown = isinstance(values, UnknownKnobs)

    def __getattr__(self, name: str) -> float:
        return Unknown(1.0) if self.__dict__.get("_unknown") else self[name]


def _comparable(run: RunFolder, config: Config) -> RunFolder | None:
    """The run of that name, else the latest of the same recipe and task."""
    if run.exists():
        return run
    prefix = default_name(config).rsplit("-", 1)[0]
    same = [other for other in runs_under(run.root) if other.name.startswith(prefix)]
    return max(same, key=lambda other: other.ledger.folder.stat().st_mtime, default=None)


def _with_forked(run: RunFolder) -> list[RunFolder]:
    """A run after the one that it was forked from, whose later rounds its own are compared with."""
    forked = forked_from(run)
    return [*([RunFolder(run.root, forked["run"])] if forked else []), run]


__all__ = ["Line", "Plan", "RoundState", "plan"]
