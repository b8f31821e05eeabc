"""A run's ledger as a tracker shows it: lines of rounds, each with its numbers and the stages behind them.

A *line* is a run without second thoughts: one ended round per index. Where a round ends anew in another state (it was retried, or a
component changed), a new line begins: the rounds before, the new one, and none of those that came after the old one. A round that
was retried and came out as before is the round that it was.

What is told of a round depends on the ledger up to its end alone, so reading the ledger again, at any later time, tells the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ratchet.champions import Crowning, crownings, headline_of, made_by
from ratchet.infra.ledger import Event
from ratchet.stages import purpose_of

Status = Literal["open", "finished", "stopped", "failed"]
"""`open`: no end is written, since a driver is at it or died."""

WORK = {"stage", "attempt", "attached", "published", "decision", "advanced", "retried"}
"""Events after which a run that had ended is open again; a driver that found nothing to do is none of them."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage of a round, with what it published."""

    stage: Event
    published: Event

    @property
    def verb(self) -> str:
        return str(self.stage["verb"])

    @property
    def purpose(self) -> str:
        """What it serves when that is not the round itself, such as `evaluation`."""
        return purpose_of(self.verb, self.stage["title"])

    @property
    def inputs(self) -> Mapping[str, Any]:
        """name → digest, or a mapping of digests for a grid."""
        found: Mapping[str, Any] = self.stage["essence"]["inputs"]
        return found


@dataclass(frozen=True, kw_only=True)
class EndedRound:
    """A round as it stood when it ended."""

    event: Event
    """The `advanced` event."""
    began: float
    steps: Sequence[Step]
    judged: Event | None = None
    """What its gates said."""

    @property
    def index(self) -> int:
        return int(self.event["round"])

    @property
    def number(self) -> int:
        """The number of the event that ended it: what tells it from any other end of the same round."""
        return int(self.event["number"])

    @property
    def policy(self) -> Mapping[str, str]:
        """Identity and digest of the policy that it made and measured, whatever gates made of it."""
        return made_by(self.event["roles"], self.judged)

    def maker(self, digest: Any) -> Step | None:
        """The stage of this round that published a content."""
        return next((step for step in self.steps if step.published["digest"] == digest), None)

    def own(self, verb: str) -> Step | None:
        """The last stage of a verb that served the round itself."""
        return next((s for s in reversed(self.steps) if s.verb == verb and not s.purpose and s.stage["cell"] is None), None)

    @property
    def report(self) -> Step | None:
        """The stage that measured it."""
        return next((step for step in self.steps if step.stage["identity"] == self.event["report"]), None)

    @property
    def training(self) -> Step | None:
        """The stage that made its policy, if this round made one."""
        return self.maker(self.policy["digest"])

    def metrics(self) -> dict[str, float]:
        """Every number of the round: what was measured, under its own name; `knobs/…`; each stage's, under `verb/…`."""
        adjusted, selected = self.own("adjust"), self.own("select")
        named = {
            **self.event["metrics"],
            **{f"knobs/{name}": value for name, value in self.event["knobs"].items()},
            "seconds": sum(step.published["seconds"] for step in self.steps),
        }
        if adjusted and "balance" in adjusted.published["metrics"]:
            named["balance"] = adjusted.published["metrics"]["balance"]
        if selected:
            named["kept"] = selected.published["rows"]
        for label, step in self._labelled():
            named |= {f"{label}/{name}": value for name, value in step.published["metrics"].items()}
        return {name: float(value) for name, value in named.items() if math.isfinite(value)}

    def _labelled(self) -> list[tuple[str, Step]]:
        """The stages by what people call them: `train`, `verify.2`, `evaluation.synthesize`; no problems, reports and cells of grids."""
        count: dict[str, int] = {}
        found = []
        for step in self.steps:
            if step.verb in ("propose", "evaluate") or step.stage["cell"] is not None:
                continue
            label = ".".join(word.replace(" ", "_") for word in (step.purpose, step.verb) if word)
            count[label] = count.get(label, 0) + 1
            found.append((label if count[label] == 1 else f"{label}.{count[label]}", step))
        return found


@dataclass(kw_only=True)
class Line:
    """The rounds that follow from one another, by index."""

    number: int
    rounds: dict[int, EndedRound] = field(default_factory=dict[int, EndedRound])
    aside: set[int] = field(default_factory=set[int])
    """Rounds that were set aside and have not ended anew yet."""
    replaced_at: float | None = None
    """When the line after it began; None for the one that counts."""


@dataclass(kw_only=True)
class History:
    """All that a tracker shows of a run."""

    opening: Event
    config: Mapping[str, Any]
    """As composed, with the operations of the last driver."""
    configured: int = 0
    """The number of the event that the config was last changed by."""
    lines: list[Line]
    retried: list[Event] = field(default_factory=list[Event])
    promoted: list[Event] = field(default_factory=list[Event])
    """What somebody promoted by hand."""
    status: Status = "open"
    reason: str = ""
    last: Event

    @property
    def forked(self) -> Mapping[str, Any] | None:
        """Of a fork: the `run` it was forked from, after which `round`."""
        return self.opening.get("forked")

    def config_of(self, index: int) -> Mapping[str, Any]:
        """The config that a round was made with: of one that a fork took over, that of the run it was forked from."""
        opening: Mapping[str, Any] = self.opening
        while (forked := opening.get("forked")) and index <= forked["round"]:
            opening = forked["opening"]
        found: Mapping[str, Any] = opening["config"]
        return found

    def crownings(self) -> list[Crowning]:
        """The champions of the line that counts, the present one last."""
        rounds = self.lines[-1].rounds
        return crownings([rounds[index].event for index in sorted(rounds)], self.promoted, headline_of(self.config))

    def ended_in(self, state: str) -> EndedRound | None:
        """The round that ended in a state, on whichever line."""
        return next((ended for line in self.lines for ended in line.rounds.values() if ended.event["state"] == state), None)

    def owner(self, ended: EndedRound) -> Line:
        """The last line that a round belongs to."""
        return next(line for line in reversed(self.lines) if line.rounds.get(ended.index) is ended)

    def times_retried(self, ended: EndedRound) -> int:
        """How often stages of a round were set aside after it had ended."""
        mine = {ended.event["state"], *(step.stage["identity"] for step in ended.steps)}
        return sum(event["number"] > ended.number and not mine.isdisjoint(event["identities"]) for event in self.retried)


def history_of(events: Sequence[Event]) -> History:
    """Read a ledger, oldest event first."""
    events = [event for event in events if event["kind"] != "forked"]  # it happened to another run
    opening = next(event for event in events if event["kind"] == "run")
    found = History(opening=opening, config=opening["config"], lines=[Line(number=0)], last=events[-1])
    places: dict[int, dict[tuple[Any, ...], Event]] = {}
    published: dict[str, Event] = {}
    began: dict[int, float] = {}
    judged: dict[int, Event] = {}
    for event in events:
        match event["kind"]:
            case "driver":
                found.config, found.configured = {**opening["config"], **event["operations"]}, event["number"]
            case "stage":
                place = (event["verb"], event["ordinal"], event["cell"])
                places.setdefault(event["round"], {})[place] = event
                began.setdefault(event["round"], event["at"])
            case "published":
                published[event["identity"]] = event
            case "judged":
                judged[event["round"]] = event
            case "retried":
                found.retried.append(event)
                line = found.lines[-1]
                line.aside |= {index for index, ended in line.rounds.items() if ended.event["state"] in event["identities"]}
            case "advanced":
                stages = places.get(event["round"], {}).values()
                steps = tuple(Step(stage=s, published=published[s["identity"]]) for s in stages if s["identity"] in published)
                start = began.pop(event["round"], event["at"])
                _advance(found, EndedRound(event=event, began=start, steps=steps, judged=judged.get(event["round"])))
            case "promoted":
                found.promoted.append(event)
            case "stopped" if found.lines[-1].aside:
                _branch(found, min(found.lines[-1].aside), event["at"])
        _follow(found, event)
    return found


def _advance(found: History, ended: EndedRound) -> None:
    line = found.lines[-1]
    before = line.rounds.get(ended.index)
    line.aside.discard(ended.index)
    if before and before.event["state"] == ended.event["state"]:
        return
    if before:
        line = _branch(found, ended.index, ended.event["at"])
    line.rounds[ended.index] = ended


def _branch(found: History, index: int, at: float) -> Line:
    """A new line, with the rounds before one of them."""
    old = found.lines[-1]
    old.replaced_at = at
    found.lines.append(Line(number=old.number + 1, rounds={earlier: ended for earlier, ended in old.rounds.items() if earlier < index}))
    return found.lines[-1]


def _follow(found: History, event: Event) -> None:
    match event["kind"]:
        case "finished":
            found.status, found.reason = "finished", ""
        case "stopped":
            found.status, found.reason = "stopped", event["reason"]
        case "failed":
            found.status, found.reason = "failed", f"{event['title']}: {event['reason']}"
        case kind if kind in WORK:
            found.status, found.reason = "open", ""
        case "driver" if found.status == "failed":
            found.status, found.reason = "open", ""
