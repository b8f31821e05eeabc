"""A run read back from its ledger: rounds, stages, attempts. Standard library only, so that `runs` and `show` answer at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ratchet.champions import Crowning, crownings, headline_of, made_by
from ratchet.flows.monitors import warnings_of
from ratchet.infra.lease import Lease
from ratchet.infra.ledger import Event
from ratchet.infra.runs import RunFolder

Status = Literal["running", "finished", "stopped", "failed", "interrupted"]


@dataclass(kw_only=True)
class StageSummary:
    """A stage at its place in a run, with what became of it."""

    round: int
    verb: str
    ordinal: int
    cell: str | None
    title: str
    identity: str
    digest: str | None = None
    rows: int = 0
    seconds: float = 0.0
    shared: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    attempts: list[Event] = field(default_factory=list[Event])
    failure: str | None = None


@dataclass(kw_only=True)
class RoundSummary:
    """What a round measured, set, kept and cost."""

    round: int
    metrics: Mapping[str, float]
    knobs: Mapping[str, float]
    balance: float | None
    kept: int | None
    seconds: float
    state: str
    report: str
    roles: Mapping[str, Any]
    note: str = ""
    judged: Mapping[str, Any] | None = None
    """What the gates said: `action`, and a row a gate in `gates`."""
    warnings: list[str] = field(default_factory=list[str])
    """What the monitors drew attention to."""

    @property
    def policy(self) -> Mapping[str, str]:
        """Identity and digest of the policy that it made and measured, whatever gates made of it."""
        return made_by(self.roles, self.judged)


@dataclass(kw_only=True)
class RunSummary:
    """A run as its ledger tells it."""

    name: str
    status: Status
    reason: str
    config: Mapping[str, Any]
    science: str
    seed: int
    began: float
    ended: float
    rounds: list[RoundSummary]
    stages: list[StageSummary]
    crownings: list[Crowning]
    """The rounds that were its champion, the one that counts last."""
    promoted: list[Mapping[str, Any]]
    """What somebody promoted: `round`, `state`, and the registered `model` if not the run's own."""
    forked: Mapping[str, Any] | None
    """Of a fork: the `run` it was forked from, after which `round`, in which `state`."""
    forks: list[Mapping[str, Any]]
    """The runs that were forked from this one, as far as its ledger knows: `name`, `round`, `state`."""

    @property
    def champion(self) -> RoundSummary | None:
        """The round whose policy is the best, by its gates, its main metric, or somebody's hand."""
        return next((row for row in self.rounds if self.crownings and row.round == self.crownings[-1].round), None)

    @property
    def rounds_wanted(self) -> int:
        return int(self.config["rounds"])


def summary_of(run: RunFolder, *, elsewhere: str | None = None) -> RunSummary:
    """Read a run's ledger once; `elsewhere` says who holds it on a machine that this one cannot see (`stores.refresh`)."""
    opening = run.opening()
    events = list(run.ledger)
    stages = _stages(events)
    driver = [e for e in events if e["kind"] == "driver"]
    config = {**opening["config"], **(driver[-1]["operations"] if driver else {})}
    status, reason = _status(run, events, elsewhere)
    rounds: dict[int, RoundSummary] = {}
    judged: dict[int, Event] = {}
    advanced: dict[int, Event] = {}
    for event in events:
        if event["kind"] == "judged":
            judged[event["round"]] = event
        elif event["kind"] == "advanced":
            rounds[event["round"]] = _round(event, stages, judged.get(event["round"]))
            advanced[event["round"]] = event
        elif event["kind"] == "retried":
            rounds = {index: row for index, row in rounds.items() if row.state not in event["identities"]}
    promoted = [event for event in events if event["kind"] == "promoted"]
    return RunSummary(
        name=run.name,
        status=status,
        reason=reason,
        config=config,
        science=opening["science"],
        seed=opening["seed"],
        began=opening["at"],
        ended=next(event["at"] for event in reversed(events) if event["kind"] not in ("forked", "promoted")),
        rounds=[rounds[index] for index in sorted(rounds)],
        stages=stages,
        crownings=crownings([advanced[index] for index in sorted(rounds)], promoted, headline_of(config)),
        promoted=[{name: event[name] for name in ("round", "state", "model")} for event in promoted],
        forked={name: opening["forked"][name] for name in ("run", "round", "state")} if opening.get("forked") else None,
        forks=[{name: e[name] for name in ("name", "round", "state")} for e in events if e["kind"] == "forked"],
    )


def _stages(events: Sequence[Event]) -> list[StageSummary]:
    """The last stage at each place, in the order they were first asked."""
    places: dict[tuple[Any, ...], StageSummary] = {}
    published: dict[str, Event] = {}
    shards: dict[str, list[Event]] = {}
    for event in events:
        match event["kind"]:
            case "stage":
                place = (event["round"], event["verb"], event["ordinal"], event["cell"])
                fields = ("round", "verb", "ordinal", "cell", "title", "identity")
                places[place] = StageSummary(**{name: event[name] for name in fields})
            case "attempt" | "attached" | "failed":
                shards.setdefault(event["title"].split(" · shard ")[0], []).append(event)
            case "published":
                published[event["identity"]] = event
                for stage in (s for s in places.values() if s.identity == event["identity"]):
                    stage.digest, stage.rows, stage.seconds = event["digest"], event["rows"], event["seconds"]
                    stage.metrics, stage.shared = event["metrics"], event["shared"]
            case "retried":
                published = {identity: e for identity, e in published.items() if identity not in event["identities"]}
                for stage in (s for s in places.values() if s.identity in event["identities"]):
                    stage.digest, stage.rows, stage.metrics = None, 0, {}
    for stage in places.values():
        stage.attempts = [e for e in shards.get(stage.title, []) if e["kind"] != "failed"]
        failures = [e for e in shards.get(stage.title, []) if e["kind"] == "failed"]
        stage.failure = failures[-1]["reason"] if failures and stage.digest is None else None
        if stage.digest is None and stage.identity in published:  # the same stage at a second place
            event = published[stage.identity]
            stage.digest, stage.rows, stage.metrics, stage.shared = event["digest"], event["rows"], event["metrics"], True
    return list(places.values())


def _round(event: Event, stages: Sequence[StageSummary], judged: Event | None) -> RoundSummary:
    mine = [stage for stage in stages if stage.round == event["round"]]
    adjusted = [stage for stage in mine if stage.verb == "adjust"]
    selected = [stage for stage in mine if stage.verb == "select" and stage.title.count(" · ") == 1]  # of no purpose but the round's own
    return RoundSummary(
        round=event["round"],
        metrics=event["metrics"],
        knobs=event["knobs"],
        balance=adjusted[-1].metrics.get("balance") if adjusted else None,
        kept=selected[-1].rows if selected and event["round"] else None,
        seconds=sum(stage.seconds for stage in mine),
        state=event["state"],
        report=event["report"],
        roles=event["roles"],
        note=event["note"],
        judged={key: judged[key] for key in ("action", "promoted", "verdict", "candidate", "gates")} if judged else None,
        warnings=warnings_of((stage.verb, stage.title, stage.metrics) for stage in mine),
    )


def _status(run: RunFolder, events: Sequence[Event], elsewhere: str | None) -> tuple[Status, str]:
    if elsewhere:
        return "running", elsewhere
    if Lease.is_held(run):
        return "running", Lease.holder(run)
    for event in reversed(events):
        match event["kind"]:
            case "finished":
                return "finished", f"{event['rounds']} rounds"
            case "stopped":
                return "stopped", event["reason"]
            case "failed":
                return "failed", f"{event['title']}: {event['reason']}"
            case "driver" | "retried" | "run":
                break
    return "interrupted", "its driver is gone; `ratchet resume` goes on"
