"""The driver: takes a run in hand, walks its recipe through the loop, and writes down what happens."""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ratchet import __version__
from ratchet.artifacts import Artifact, Manifest
from ratchet.champions import headline_of
from ratchet.errors import InputError, StageFailed
from ratchet.flows.budget import Budget, BudgetSpent, Patience
from ratchet.flows.budget import checked as checked_budget
from ratchet.flows.build import build
from ratchet.flows.collected import Sparing, collected
from ratchet.flows.compose import OPERATIONS, Config, differing, science, science_hash
from ratchet.flows.gating import Gating, Judged
from ratchet.flows.job import job_of
from ratchet.flows.loop import Journal, Recipe, Stages, self_train
from ratchet.flows.states import begun
from ratchet.identity import locate
from ratchet.infra.crew import Crew
from ratchet.infra.executors import JobRecord, this_process
from ratchet.infra.launch import Launcher
from ratchet.infra.ledger import Event, Ledger
from ratchet.infra.runs import RunFolder, make_root
from ratchet.infra.store import Store
from ratchet.infra.stores import enter, held
from ratchet.rounds import RoundState
from ratchet.stages import STATE, Stage, knobs_of, verdicts_of


class View:
    """Something that shows a run while it goes. It is told what happens and decides nothing; whatever it lacks, the ledger has."""

    def opened(self, run: RunFolder, config: Config) -> None:
        """A driver took the run in hand."""

    def begins(self, round: int, of: int) -> None:
        """A round begins."""

    def asked(self, stages: Sequence[Stage]) -> None:
        """Stages were asked, to be made together."""

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None:
        """A job for a stage (or a shard of one) was started, or attached to."""

    def seen(self, stage: Stage, words: str) -> None:
        """Where the stage's job stands, as its executor sees it: `PENDING (Resources)`."""

    def lost(self, stage: Stage, number: int, words: str) -> None:
        """An attempt was preempted, ran out of walltime or went with its node; another is begun."""

    def waiting(self, stage: Stage) -> None:
        """Another run is making the stage."""

    def said(self, text: str) -> None:
        """Something the user should know while it lasts: a store or scheduler that does not answer."""

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None:
        """A stage's artifact stands."""

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None:
        """An attempt ended without publishing."""

    def judged(self, event: Event) -> None:
        """The gates had their say on a round's candidate."""

    def advanced(self, event: Event) -> None:
        """A round ended."""

    def closed(self, reason: str) -> None:
        """The driver lets go of the run: `finished`, `stopped: …` or `failed: …`."""


@dataclass(frozen=True)
class Recorder(Journal):
    """Writes the ledger, each fact once, and tells the views."""

    run: RunFolder
    store: Store
    views: Sequence[View]
    check: Callable[[], None]
    """Raises if the run is in another driver's hands by now."""
    budget: Budget | None = None
    patience: Patience | None = None
    jobs_outlive: bool = True
    """Whether jobs go on without this machine, so that a power failure here must not forget one."""
    _places: dict[tuple[Any, ...], str] = field(default_factory=dict[tuple[Any, ...], str])
    _published: dict[str, str] = field(default_factory=dict[str, str])
    _attempted: set[str] = field(default_factory=set[str])
    _advanced: dict[int, Event] = field(default_factory=dict[int, Event])
    """Round → the event of its latest end."""
    _judged: dict[int, Event] = field(default_factory=dict[int, Event])
    _last: list[RoundState] = field(default_factory=list[RoundState])
    """The state that the loop was told of last."""

    def __post_init__(self) -> None:
        for event in self.ledger:
            self._learn(event)

    @property
    def ledger(self) -> Ledger:
        return self.run.ledger

    def _learn(self, event: Event) -> None:
        match event["kind"]:
            case "stage":
                self._places[event["round"], event["verb"], event["ordinal"], event["cell"]] = event["identity"]
            case "attempt" | "attached":  # the latter alone if a driver died before it wrote down what it had begun
                self._attempted.add(event["identity"])
            case "published":
                self._published[event["identity"]] = event["digest"]
            case "retried":
                for identity in event["identities"]:
                    self._published.pop(identity, None)
                for round in [round for round, ended in self._advanced.items() if ended["state"] in event["identities"]]:
                    del self._advanced[round]
                    self._judged.pop(round, None)
            case "advanced":
                self._advanced[event["round"]] = event
            case "judged":
                self._judged[event["round"]] = event

    def append(self, kind: str, *, flush: bool = True, **fields: Any) -> Event:
        self.check()
        event = self.ledger.append(kind, flush=flush, **fields)
        self._learn(event)
        return event

    def begins(self, round: int, of: int) -> None:
        self._tell(lambda view: view.begins(round, of))

    def asked(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            place = {"round": stage.round, "verb": stage.verb, "ordinal": stage.ordinal, "cell": stage.cell}
            if self._places.get(tuple(place.values())) != stage.identity:
                self.append("stage", flush=False, **place, identity=stage.identity, title=stage.title, essence=stage.essence)
        self._tell(lambda view: view.asked(stages))

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None:
        kind = "attached" if attached else "attempt"
        self.append(kind, flush=self.jobs_outlive, identity=stage.identity, title=stage.title, attempt=number, job=record)
        self._tell(lambda view: view.attempt(stage, number, record, attached=attached))

    def seen(self, stage: Stage, words: str) -> None:
        self._tell(lambda view: view.seen(stage, words))

    def lost(self, stage: Stage, number: int, words: str) -> None:
        self.append("lost", identity=stage.identity, title=stage.title, attempt=number, words=words)
        self._tell(lambda view: view.lost(stage, number, words))

    def waiting(self, stage: Stage) -> None:
        self._tell(lambda view: view.waiting(stage))

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None:
        # Found, but tried by this run: a driver that died did not live to write it down.
        ours = stage.identity in self._attempted or any(shard.identity in self._attempted for shard in stage.shards())
        if self._published.get(stage.identity) != manifest.digest:
            made = self.store.made(stage.identity)
            self.append(
                "published",
                identity=stage.identity,
                title=stage.title,
                digest=manifest.digest,
                rows=manifest.rows,
                metrics=manifest.metrics,
                seconds=made.get("seconds", 0.0),
                source=made.get("source"),
                shared=reused and not ours,
            )
        self._tell(lambda view: view.published(stage, manifest, reused=reused))

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None:
        self.append("failed", identity=stage.identity, title=stage.title, attempt=number, state=error.state, reason=error.reason)
        self._tell(lambda view: view.failed(stage, number, error))

    def advanced(self, state: RoundState, report: Artifact, *, note: str = "") -> None:
        before = self._advanced.get(state.round - 1)
        value: dict[str, Any] = {
            "round": state.round,
            "roles": _pointers(state.roles),
            "stores": _pointers(state.stores),
            "knobs": dict(state.knobs),
            "metrics": dict(state.metrics),
            "report": report.identity,
            "previous": before["state"] if before else None,
        }
        identity = self.store.publish_json(STATE, value, kind="state").identity
        event = self._advanced.get(state.round)
        if event is None or event["state"] != identity:
            if state.knobs:
                self.append("decision", round=state.round, knobs=dict(state.knobs))
            event = self.append("advanced", **value, state=identity, note=note)
        self._last[:] = [state]
        self._tell(lambda view: view.advanced(event))

    def judged(self, round: int, found: Judged) -> None:
        """Each gate's word and what follows; not again what stands already. Words that `gc` left without an artifact were said before."""
        said: dict[str, Any] = {"verdict": found.verdict.identity, "digest": found.verdict.digest, "action": found.action, "promoted": found.promoted}
        event = self._judged.get(round)
        if event is None or any(event[key] != value for key, value in said.items()):
            rows = verdicts_of(self.store.open(found.verdict.identity))
            event = self.append("judged", round=round, **said, candidate=_pointers({"policy": found.candidate})["policy"], gates=rows)
        self._tell(lambda view: view.judged(event))

    def enough(self, state: RoundState) -> str | None:
        """Why no further round is to begin; what ended already is passed by."""
        self._last[:] = [state]
        if state.round + 1 in self._advanced:
            return None
        if self.budget and (reason := self.budget.enough()):
            return reason
        if self.patience is None:
            return None
        return self.patience.over([self._advanced[index]["report"] for index in range(state.round + 1) if index in self._advanced])

    def stopped(self, reason: str) -> None:
        self.append("stopped", reason=reason)

    @property
    def last(self) -> RoundState | None:
        """The state that the loop reached."""
        return self._last[-1] if self._last else None

    def _tell(self, what: Callable[[View], None]) -> None:
        for view in self.views:
            what(view)


def _pointers(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    return {name: {"identity": artifact.identity, "digest": artifact.digest} for name, artifact in artifacts.items()}


@dataclass(frozen=True)
class Outcome:
    """How a driver's turn at a run ended."""

    run: RunFolder
    state: RoundState
    stopped: str | None


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The recipe that a config names by the dotted path of its round."""
    found = locate(config["recipe"]["step"])
    if not isinstance(found, Recipe):
        raise InputError(f"{config['recipe']['step']} is no recipe", next="put @recipe above the round's function")
    return found


def open_run(run: RunFolder, config: Config, overrides: Sequence[str]) -> None:
    """Write down what the run is, or make sure that it still is that; the caller holds the lease."""
    for event in run.ledger:
        if event["kind"] != "run":
            continue
        changed = [key for key, _, _ in differing(science(event["config"]), science(config))]
        if changed:
            raise InputError(
                f"the run {run.name} exists with other science",
                got=f"other values for {', '.join(changed)}",
                allowed=f"its own config, or changes of {', '.join(sorted(OPERATIONS))}",
                next=f"take another --name; what is unchanged is shared: `ratchet plan --name NEW {' '.join(overrides)}` shows it",
            )
        return
    run.ledger.append("run", **opening_of(run, config, overrides))
    write_config(run, config)


def opening_of(run: RunFolder, config: Config, words: Sequence[str]) -> dict[str, Any]:
    """What a ledger says first: what the run is, and in which words it was asked for."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "math-verify")}
    return {
        "name": run.name,
        "config": config,
        "science": science_hash(config),
        "seed": config["seed"],
        "words": list(words),
        "versions": {"ratchet": __version__, **versions},
    }


def write_config(run: RunFolder, config: Config) -> None:
    """The config as `run.yaml`, for people to read."""
    import yaml

    (run.folder / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def check(config: Config) -> tuple[Recipe, Mapping[str, Any], Any]:
    """What a config names: its recipe, parts and executor; bad input shows here, before anything is started."""
    parts = build({key: value for key, value in science(config).items() if key not in ("recipe", "seed", "on_empty")})
    Gating.of(parts)
    checked_budget(config.get("budget"))
    return recipe_of(config), parts, build(config["executor"], "executor")


def drive(run: RunFolder, config: Config, *, overrides: Sequence[str] = (), views: Sequence[View] = ()) -> Outcome:
    """Take the run in hand and bring it to its last round; what is published already is not made again."""
    recipe, parts, executor = check(config)
    make_root(run.root)
    store = enter(run, config.get("store"), warn=lambda text: _say(views, text))
    with ExitStack() as stack:
        in_hand = stack.enter_context(held(run, store))
        open_run(run, config, overrides)
        store.survey(event["identity"] for event in run.ledger if event["kind"] == "published")
        taken_over = begun(run, store)
        budget = Budget(run.name, checked_budget(config.get("budget")), run.ledger, store)
        patience = Patience(config["patience"], headline_of(config)[0], store) if config.get("patience") else None
        recorder = Recorder(run, store, views, in_hand, budget, patience, executor.outlives_machine)
        recorder.append("driver", process=this_process(), command=sys.argv, operations={k: config[k] for k in sorted(OPERATIONS) if k in config})
        pin_threads(executor.cpus_per_task)
        for view in views:
            view.opened(run, config)
        crew = stack.enter_context(Crew(executor, run.name))
        launcher = Launcher(store=store, executor=crew, job=lambda identity, n: job_of(store, identity, n), watch=recorder, in_hand=in_hand)

        def make(stages: Sequence[Stage]) -> list[Artifact]:
            budget.check(stages)
            recorder.asked(stages)
            return [manifest.artifact for manifest in launcher.make(stages)]

        sparing = Sparing(collected(run.ledger), store, make)

        def stages(round: int) -> Stages:
            return Stages(parts, sparing.make, lambda artifact: knobs_of(store.open(artifact.identity)), config["seed"], round)

        already = sum(1 for event in run.ledger if event["kind"] == "stopped")
        rules = {"rounds": config["rounds"], "on_empty": config["on_empty"], "gating": Gating.of(parts)}
        try:
            state = self_train(recipe, stages, journal=recorder, begun=taken_over, **rules)
        except BudgetSpent as spent:
            recorder.stopped(str(spent))
            state = recorder.last or taken_over or RoundState()
        stops = [event for event in run.ledger if event["kind"] == "stopped"]
        stopped = stops[-1]["reason"] if len(stops) > already else None
        if stopped is None:
            recorder.append("finished", rounds=config["rounds"])
        return Outcome(run, state, stopped)


def _say(views: Sequence[View], text: str) -> None:
    for view in views:
        view.said(text)


def pin_threads(count: int) -> None:
    """Fix the thread count of this process before anything heavy is imported: the last bits of a sum depend on it."""
    from ratchet.infra.executors import environment

    os.environ.update({key: value for key, value in environment(count, {}).items() if key != "PYTHONUNBUFFERED"})
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
