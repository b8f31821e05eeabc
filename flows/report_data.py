"""What a report shows beyond the numbers of its rounds: rollouts that changed, where rows went, where time went, who descends from whom.

Every part says of itself what it could not read (`gap`), since a run may have been collected, set aside, or be under way.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratchet.flows.comparison import item_value
from ratchet.flows.measured import Measured, Round, measures, read_lines
from ratchet.infra.ledger import Event
from ratchet.records import OUTCOMES, Rollout
from ratchet.stages import CELLS, purpose_of

SHOWN = 6
"""Examples of a kind."""

PROBING = "probing"
WORK = {"synthesize": "sampling", "verify": "verifying", "train": "training", "create": "base policy"}
"""Verb → what its time is called; the small ones are `other`."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One problem whose answer changed."""

    problem_id: str
    prompt: str
    reference: str
    track: str
    """Right or wrong, round by round: `·` where it was not measured."""
    before: Rollout | None
    after: Rollout | None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What became of the problems between two rounds."""

    what: str
    before: str
    after: str
    count: int
    of: int
    examples: Sequence[Example]


@dataclass(frozen=True, kw_only=True)
class RowFlow:
    """Rows of a round: sampled, by outcome, kept."""

    round: int
    outcomes: Mapping[str, int]
    kept: Mapping[str, int]
    """Outcome → rows kept of it; under `""` if that cannot be told any more."""

    @property
    def sampled(self) -> int:
        return sum(self.outcomes.values())

    @property
    def kept_rows(self) -> int:
        return sum(self.kept.values())


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One step in the making of a policy."""

    round: int
    identity: str
    digest: str
    words: str
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


def is_right(row: Round, problem: str, metric: str) -> bool | None:
    value = item_value(row.items[problem], metric) if problem in row.items else None
    return None if value is None else value >= 0.5


def changes(before: Round, after: Round, metric: str) -> list[Changes]:
    """From wrong to right and from right to wrong between two rounds; within a run also what was right only in between."""
    if not (before.items and after.items):
        return []
    within = before.run is after.run
    track = [row for row in after.run.rounds if row.index <= after.index and (not within or row.index >= before.index)]
    kinds: dict[str, list[str]] = {"wrong → right": [], "right → wrong": [], "right only in between": []}
    known = 0
    for problem in before.items:
        first, last = is_right(before, problem, metric), is_right(after, problem, metric)
        known += first is not None and last is not None
        if (first, last) in ((False, True), (True, False)):
            kinds["wrong → right" if last else "right → wrong"].append(problem)
        elif within and first is False and last is False and any(is_right(row, problem, metric) for row in track):
            kinds["right only in between"].append(problem)
    names = [f"round {row.index}" if within else f"{row.run.name}, round {row.index}" for row in (before, after)]
    found = []
    for what, problems in kinds.items():
        middle = what == "right only in between"
        examples = [_example(problem, before, after, track, metric, middle=middle) for problem in problems[:SHOWN]]
        if within or not middle:
            between = names if not middle else ["the round in which it was right", names[1]]
            found.append(Changes(what=what, before=between[0], after=between[1], count=len(problems), of=known, examples=examples))
    return found


def _example(problem: str, before: Round, after: Round, track: Sequence[Round], metric: str, *, middle: bool) -> Example:
    shown = next(row for row in track if is_right(row, problem, metric)) if middle else before
    one, other = greedy(shown).get(problem), greedy(after).get(problem)
    known = one or other
    marks = {True: "✓", False: "✗", None: "·"}
    return Example(
        problem_id=problem,
        prompt=known.prompt if known else "",
        reference=(known.reference or "") if known else "",
        track="".join(marks[is_right(row, problem, metric)] for row in track),
        before=one,
        after=other,
    )


def greedy(row: Round) -> dict[str, Rollout]:
    """problem_id → the greedy rollout that a round was measured by; empty if those cannot be read any more."""
    return row.run.remembered(f"greedy {row.index}", lambda: _greedy(row))


def _greedy(row: Round) -> dict[str, Rollout]:
    stage = _evaluated(row)
    digest = stage["essence"]["inputs"].get("greedy") if stage else None
    verified = row.run.trail.maker(digest, "verify", row.index) if isinstance(digest, str) else None
    opened = row.run.opened(verified["identity"]) if verified else "no verify stage"
    if isinstance(opened, str):
        return {}
    return {rollout.problem_id: rollout for rollout in opened.records() if isinstance(rollout, Rollout)}


def _evaluated(row: Round) -> Event | None:
    return next(iter(row.run.trail.stages.get(row.summary.report, ())), None)


def row_flows(run: Measured) -> list[RowFlow]:
    """Of every round that trained: what was sampled for it, how that was judged, what of it was kept."""
    return [flow for row in run.rounds if (flow := _flow(run, row))]


def _flow(run: Measured, row: Round) -> RowFlow | None:
    outcomes, kept = Counter[str](), Counter[str]()
    for trained in _stages(run, row.index, "train"):
        chosen = run.trail.maker(trained["essence"]["inputs"].get("examples", ""), "select", row.index)
        if chosen is None:
            continue
        judged = [found for given in _digests(chosen) if (found := run.trail.maker(given, "verify", row.index))]
        for stage in judged:
            metrics = run.trail.published[stage["identity"]]["metrics"]
            outcomes.update({name: int(metrics[name]) for name in OUTCOMES if metrics.get(name)})
        kept.update(_kept(run, chosen, judged))
    return RowFlow(round=row.index, outcomes=dict(outcomes), kept=dict(kept)) if outcomes else None


def _kept(run: Measured, chosen: Event, judged: Sequence[Event]) -> dict[str, int]:
    """Outcome → how many of the kept rows had it, found by problem and text."""
    kept = run.opened(chosen["identity"])
    given = [run.opened(stage["identity"]) for stage in judged]
    rows = int(run.trail.published[chosen["identity"]]["rows"]) if chosen["identity"] in run.trail.published else 0
    if isinstance(kept, str) or any(isinstance(opened, str) for opened in given):
        return {"": rows}
    rank = {name: place for place, name in enumerate(OUTCOMES)}  # of equal texts the best outcome
    outcome: dict[tuple[str | None, str], str] = {}
    for rollout in (record for opened in given if not isinstance(opened, str) for record in opened.records()):
        if isinstance(rollout, Rollout) and rollout.outcome:
            key = (rollout.problem_id, rollout.completion)
            outcome[key] = min(outcome.get(key, rollout.outcome), rollout.outcome, key=rank.__getitem__)
    return dict(Counter(outcome.get((getattr(row, "problem_id", None), getattr(row, "completion", "")), "") for row in kept.records()))


def cells(run: Measured) -> dict[int, list[dict[str, Any]]]:
    """Round → the cells that its controller searched, as far as they can be read."""
    found = {}
    for row in run.rounds:
        for stage in _stages(run, row.index, "adjust"):
            opened = run.opened(stage["identity"])
            if not isinstance(opened, str) and (rows := read_lines(opened.folder / CELLS)):
                found[row.index] = rows
    return found


def seconds(run: Measured) -> dict[int, dict[str, float]]:
    """Round → what its seconds went to; a stage that was found and not made counts what it took when it was made."""
    found: dict[int, dict[str, float]] = {}
    paid = set[str]()
    for stage in run.summary.stages:
        if stage.identity in paid or stage.digest is None:
            continue
        paid.add(stage.identity)
        serves = purpose_of(stage.verb, stage.title)
        work = "process reward" if serves == "process reward" else WORK.get(stage.verb, "other")
        work = ("evaluation" if serves == "evaluation" else "gates") if measures(stage.verb, stage.title) else work
        work = PROBING if stage.cell else work
        of_round = found.setdefault(stage.round, {})
        of_round[work] = of_round.get(work, 0.0) + float(run.trail.published.get(stage.identity, {}).get("seconds", stage.seconds))
    return dict(sorted(found.items()))


def lineage(run: Measured, row: Round) -> list[Ancestor]:
    """How the policy of a round came to be, the base policy first: whose weights it has, and on whose samples it was trained."""
    rounds = {r.summary.policy["digest"]: r for r in reversed(run.rounds)}
    chain: list[Ancestor] = []
    digest: str | None = row.summary.policy["digest"]
    seen = set[str]()
    while digest and digest not in seen:
        seen.add(digest)
        made = run.trail.maker(digest, "train", row.index) or run.trail.maker(digest, "create", row.index)
        at = rounds.get(digest)
        chain.append(_ancestor(run, digest, made, at, rounds))
        digest = _grown_from(run, made) if made else None
    return chain[::-1]


def _grown_from(run: Measured, made: Event) -> str | None:
    """The policy that a training stage's data came from; if that cannot be told, the one whose weights it took."""
    drawn = next(iter(_drawn(run, made)), None)
    inputs = made["essence"]["inputs"]
    found = drawn["essence"]["inputs"].get("policy") if drawn else inputs.get("policy")
    return found if isinstance(found, str) else None


def _drawn(run: Measured, made: Event) -> Iterator[Event]:
    """The stages that sampled what a training stage learnt from."""
    chosen = run.trail.maker(str(made["essence"]["inputs"].get("examples", "")), "select", made["round"])
    for given in _digests(chosen) if chosen else ():
        judged = run.trail.maker(given, "verify", made["round"])
        for rollouts in _digests(judged) if judged else ():
            if drawn := run.trail.maker(rollouts, "synthesize", made["round"]):
                yield drawn


def _ancestor(run: Measured, digest: str, made: Event | None, at: Round | None, rounds: Mapping[Any, Round]) -> Ancestor:
    metrics = at.summary.metrics if at else {}
    number = at.index if at else made["round"] if made else 0
    if made is None:
        return Ancestor(round=number, identity="", digest=digest, words="its making is not in this ledger", metrics=metrics)
    if made["verb"] == "create":
        name = made["essence"]["component"]["component"].rpartition(".")[2]
        return Ancestor(round=number, identity=made["identity"], digest=digest, words=f"base policy, made by {name}", metrics=metrics)
    return Ancestor(round=number, identity=made["identity"], digest=digest, words=_trained_words(run, made, rounds), metrics=metrics)


def _trained_words(run: Measured, made: Event, rounds: Mapping[Any, Round]) -> str:
    def whose(digest: Any) -> str:
        return f"round {rounds[digest].index}" if digest in rounds else f"policy {str(digest)[:8]}"

    inputs = made["essence"]["inputs"]
    chosen = run.trail.maker(str(inputs.get("examples", "")), "select", made["round"])
    words = f"weights of {whose(inputs.get('policy'))}"
    if chosen:
        rows = run.trail.published.get(chosen["identity"], {}).get("rows", 0)
        threshold = chosen["essence"]["component"]["fields"].get("threshold")
        words += f", trained on {rows:,} rows kept" + (f" above a reward of {threshold:g}" if threshold is not None else "")
    for drawn in _drawn(run, made):
        total = run.trail.published.get(drawn["identity"], {}).get("rows", 0)
        temperature = drawn["essence"]["component"]["fields"].get("temperature")
        words += f" of {total:,} sampled from {whose(drawn['essence']['inputs'].get('policy'))}"
        words += f" at temperature {temperature:g}" if temperature is not None else ""
    return words


def _stages(run: Measured, round: int, verb: str) -> list[Event]:
    """The stages of a verb that a round asked for itself and that are published."""
    places = itertools.chain.from_iterable(run.trail.stages.values())
    mine = [place for place in places if place["round"] == round and place["verb"] == verb and not purpose_of(verb, place["title"])]
    return sorted((place for place in mine if place["identity"] in run.trail.published), key=lambda place: place["number"])


def _digests(stage: Event) -> list[str]:
    return [given for name, given in stage["essence"]["inputs"].items() if isinstance(given, str) and not name.startswith("role:")]
