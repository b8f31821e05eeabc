"""`ratchet compare`: which rounds are set against which, whether they may be, and what can be told from their answers.

One run: every round against the first (or the one before). Several: each against the first one named, at the same round, or at the same
budget. A budget is what a run had spent when a round ended (`measured.Cost`). At equal budget each run stands by the last round that it
had finished within it; the budgets looked at are those at which either of the two finished a round, up to all that the cheaper one spent.
Nothing is interpolated: between two rounds there is no policy.

Refused is what is another question: other held-out problems, another verifier (its description or `version`), another evaluation.
Rounds that stand by one and the same policy are no comparison. Each metric's comparisons are one family, which Holm's
correction is for.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ratchet.components.evaluation.pass_at_k import pass_at
from ratchet.errors import InputError
from ratchet.flows.measured import Cost, Measured, Round
from ratchet.flows.statistics import ALPHA, Paired, holm, paired, verdict_words

By = Literal["round", "samples", "tokens", "seconds"]
Against = Literal["first", "previous"]
Verdict = Literal["better", "worse", "open", "same", "unknown"]

METRIC = re.compile(r"pass_at_(\d+)(?:_s(\d+))?")


@dataclass(kw_only=True)
class Pair:
    """Two rounds and one metric."""

    metric: str
    before: Round
    after: Round
    at: str
    """Where they meet: `round 3`, `12,000 samples`."""
    headline: bool = True
    """Whether more of the metric is better, as far as is known."""
    found: Paired | None = None
    p: float | None = None
    """Corrected."""
    family: int = 0
    refused: str = ""
    """Why the two are not one question."""
    gap: str = ""
    """Why it cannot be answered."""

    @property
    def why_not(self) -> str:
        return self.refused or self.gap

    @property
    def is_same(self) -> bool:
        """Whether both stand by one policy in one exam, so that there is nothing to tell apart."""
        one, other = (row.summary.roles.get("policy", {}).get("digest") for row in (self.before, self.after))
        return not self.refused and (self.before.summary.report == self.after.summary.report or (one is not None and one == other))

    @property
    def verdict(self) -> Verdict:
        if self.is_same:
            return "same"
        if self.found is None or self.p is None:
            return "unknown"
        return "open" if self.p >= ALPHA else "better" if self.found.difference > 0 else "worse"

    @property
    def words(self) -> str:
        """What is to be said of it, in a sentence."""
        where, what, against = self.names
        if self.is_same:
            return f"{where}{what} and {against} are one and the same policy"
        if self.found is None or self.p is None:
            return f"{where}{what} and {against} are not compared: {self.why_not}"
        sides = ("better", "worse") if self.headline else ("higher", "lower")
        return where + verdict_words(what, against, self.found, self.p, self.family, sides)

    @property
    def names(self) -> tuple[str, str, str]:
        """(`at round 3: `, what is compared, what with)."""
        before, after = self.before, self.after
        if before.run is after.run:
            return "", f"round {after.index}", f"round {before.index}"
        if self.at == f"round {after.index}":
            return f"at {self.at}: ", after.run.name, before.run.name
        return f"at {self.at}: ", f"{after.run.name} (round {after.index})", f"{before.run.name} (round {before.index})"

    def plain(self) -> dict[str, Any]:
        """For a machine to read."""
        found = self.found
        numbers = {
            "items": found.items, "before": found.before, "after": found.after, "difference": found.difference, "low": found.low,
            "high": found.high, "gained": found.gained, "lost": found.lost, "p": found.p, "p_corrected": self.p, "family": self.family,
            "method": found.method,
        } if found else {}  # fmt: skip
        of = {"metric": self.metric, "at": self.at, "against": self.before.run.name, "against_round": self.before.index, "round": self.after.index}
        return {**of, "verdict": self.verdict, "words": self.words, **numbers}


@dataclass(kw_only=True)
class Comparison:
    """Runs, and all pairs of their rounds that were set against each other."""

    runs: Sequence[Measured]
    by: By
    unit: str
    metrics: tuple[str, ...]
    pairs: list[Pair] = field(default_factory=list[Pair])
    notes: list[str] = field(default_factory=list[str])
    """What else is to be known before any of it is believed."""

    def of(self, metric: str) -> list[Pair]:
        return [pair for pair in self.pairs if pair.metric == metric]

    def why_nothing(self, metric: str) -> str:
        """The one reason for which no pair of a metric could be compared; empty if some were, or for several reasons."""
        asked = [pair for pair in self.of(metric) if pair.verdict != "same"]
        reasons = {pair.why_not for pair in asked}
        return reasons.pop() if len(asked) > 1 and len(reasons) == 1 else ""

    def pairs_of(self, run: Measured) -> list[Pair]:
        return [pair for pair in self.pairs if pair.after.run is run]

    def plain(self, run: Measured) -> dict[str, Any]:
        """A run for a machine to read: its rounds with what they had cost, and what they were compared with."""
        rounds = [{**asdict(row.summary), "cost": asdict(row.cost)} for row in run.rounds]
        aligned = {"by": self.by, "unit": self.unit, "metrics": list(self.metrics)}
        return {"name": run.name, "rounds": rounds, **aligned, "comparisons": [pair.plain() for pair in self.pairs_of(run)], "notes": self.notes}


def compare(runs: Sequence[Measured], *, by: By = "round", against: Against = "first", metrics: Sequence[str] = ()) -> Comparison:
    """Set runs against the first one named, or the rounds of a single run against each other; InputError if none may be."""
    headline = tuple(dict.fromkeys(name for run in runs for name in run.headline))
    chosen = tuple(metrics) or headline
    _check_metrics(runs, metrics)
    unit = unit_of(runs, by)
    comparison = Comparison(runs=runs, by=by, unit=unit, metrics=chosen)
    if len(runs) > 1 and against != "first":
        raise InputError("--against is for the rounds of one run", got=f"{len(runs)} runs", next="several runs are set against the first one named")
    for met in _meetings(runs, by, against, unit):
        comparison.pairs += [Pair(metric=metric, before=met[0], after=met[1], at=met[2], headline=metric in headline) for metric in chosen]
    _refuse(comparison)
    for metric in chosen:
        _tell(comparison.of(metric))
    comparison.notes += _notes(comparison)
    return comparison


def budget(cost: Cost, by: By, unit: str) -> float:
    """What a cost is in a unit."""
    return {"samples": cost.samples, "tokens": cost.tokens, "seconds": cost.gpu_seconds if unit.startswith("GPU") else cost.cpu_seconds}[by]


def amount_words(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 or amount == round(amount) else f"{amount:.3g}"


def unit_of(runs: Sequence[Measured], by: By) -> str:
    """What the runs are aligned by, in words; InputError if they do not all have it."""
    if by != "seconds":
        if by != "round" and (without := [run.name for run in runs if run.rounds and not budget(run.rounds[-1].cost, by, "")]):
            what = {"samples": "no rollouts are in its ledger", "tokens": "its trainers report no `tokens`"}[by]
            raise InputError(f"{without[0]} cannot be aligned by {by}: {what}", next="--by round, or --by seconds")
        return {"round": "round", "samples": "samples", "tokens": "trained tokens"}[by]
    on_gpus = [run.name for run in runs if run.rounds and run.rounds[-1].cost.gpu_seconds]
    if on_gpus and (without := [run.name for run in runs if run.rounds and run.name not in on_gpus]):
        what = f"seconds of {on_gpus[0]}, which was given GPUs, and of {without[0]}, which was not, are of different machines"
        raise InputError(what, next="--by samples, or --by tokens")
    return "GPU-seconds" if on_gpus else "CPU-seconds"


def _check_metrics(runs: Sequence[Measured], metrics: Sequence[str]) -> None:
    known = sorted({name for run in runs for row in run.rounds for name in row.summary.metrics if not name.endswith((".low", ".high"))})
    if unknown := [name for name in metrics if name not in known]:
        raise InputError(f"no round has the metric {unknown[0]!r}", got=f"--metric {unknown[0]}", allowed=", ".join(known) or "none yet")


def _meetings(runs: Sequence[Measured], by: By, against: Against, unit: str) -> Iterator[tuple[Round, Round, str]]:
    """(before, after, where they meet)."""
    if len(runs) == 1:
        rounds = runs[0].rounds
        before = rounds[:1] * len(rounds[1:]) if against == "first" else rounds[:-1]
        yield from ((one, other, f"round {other.index}") for one, other in zip(before, rounds[1:], strict=True))
        return
    base, *others = runs
    for other in others:
        if by == "round":
            mine = {row.index: row for row in base.rounds}
            yield from ((mine[row.index], row, f"round {row.index}") for row in other.rounds if row.index in mine)
        else:
            yield from _at_equal_budget(base, other, by, unit)


def _at_equal_budget(base: Measured, other: Measured, by: By, unit: str) -> Iterator[tuple[Round, Round, str]]:
    """Every pair of rounds that two runs stand by at some budget, at the smallest budget where they do."""
    if not (base.rounds and other.rounds):
        return
    spent = {run.name: [budget(row.cost, by, unit) for row in run.rounds] for run in (base, other)}
    most = min(costs[-1] for costs in spent.values())
    met = set[tuple[int, int]]()
    for amount in sorted({cost for costs in spent.values() for cost in costs if cost <= most}):
        mine, theirs = (_within(run, spent[run.name], amount) for run in (base, other))
        if mine and theirs and (mine.index, theirs.index) not in met:
            met.add((mine.index, theirs.index))
            yield mine, theirs, f"{amount_words(amount)} {unit}"


def _within(run: Measured, spent: Sequence[float], amount: float) -> Round | None:
    """The last round that a run had finished within a budget."""
    return max((row for row, cost in zip(run.rounds, spent, strict=True) if cost <= amount), key=lambda row: row.index, default=None)


def _refuse(comparison: Comparison) -> None:
    """Say of each pair whether it is one question; InputError if that is so of none of a run's."""
    for pair in comparison.pairs:
        pair.refused = incomparable(pair.before, pair.after)
    for run in comparison.runs[1:]:
        mine = [pair for pair in comparison.pairs if pair.after.run is run]
        if mine and all(pair.refused for pair in mine):
            raise InputError(
                f"{run.name} and {mine[0].before.run.name} are not comparable: {mine[0].refused}",
                next="compare runs that were measured alike; `ratchet compare NAME` shows each by itself",
            )


def incomparable(before: Round, after: Round) -> str:
    """Why two rounds do not answer the same question; empty if they do."""
    one, other = before.exam, after.exam
    if one.problems and other.problems and one.problems != other.problems:
        return f"they were measured on other test items (digests {other.problems[:8]} and {one.problems[:8]})"
    if not (one.problems and other.problems) and before.items and after.items and before.items.keys() != after.items.keys():
        return "they were measured on other test items (their problem_ids differ)"
    if (changed := _changed(one.verifier, other.verifier)) or one.judges != other.judges:
        return f"what is right was judged by another verifier ({changed or 'another model as ' + ', '.join(sorted({*one.judges, *other.judges}))})"
    if changed := _changed(one.evaluation, other.evaluation):
        return f"they were evaluated otherwise ({changed})"
    return ""


def _changed(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    """In what two descriptions differ: `version: 1 → 2, fields.samples: 4 → 8`."""
    if one is None or other is None or one == other:
        return ""
    mine, theirs = dict(_leaves(one)), dict(_leaves(other))
    keys = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
    words = [f"{key.replace('fields.', '')}: {mine.get(key, '–')} → {theirs.get(key, '–')}" for key in keys]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _tell(family: Sequence[Pair]) -> None:
    """The statistics of a metric's pairs, corrected for each other."""
    asked = [pair for pair in family if not pair.is_same and not pair.refused]
    for pair in asked:
        pair.found, pair.gap = _paired(pair)
    told = [pair for pair in asked if pair.found]
    for pair, p in zip(told, holm([pair.found.p for pair in told if pair.found]), strict=True):
        pair.p, pair.family = p, len(told)


def _paired(pair: Pair) -> tuple[Paired | None, str]:
    for row in (pair.before, pair.after):
        if not row.items:
            return None, row.gap
    both = [problem for problem in pair.before.items if problem in pair.after.items]
    values = [(item_value(pair.before.items[i], pair.metric), item_value(pair.after.items[i], pair.metric)) for i in both]
    known = [(one, other) for one, other in values if one is not None and other is not None]
    if not known:
        return None, f"the rows per problem do not tell {pair.metric}"
    return paired([one for one, _ in known], [other for _, other in known]), ""


def item_value(item: Mapping[str, Any], metric: str) -> float | None:
    """What one problem adds to a metric that is a mean over problems; None if its row does not tell."""
    said = item.get(metric, item.get("correct") if metric == "pass_at_1" else None)
    if isinstance(said, bool | int | float) and math.isfinite(said):
        return float(said)
    samples, correct = item.get("sampled"), item.get("sampled_correct")
    if not samples or correct is None:
        return None
    if metric == "sampled_accuracy":
        return float(correct / samples)
    of = METRIC.fullmatch(metric)
    if of is None or int(of[1]) > samples or metric == "pass_at_1":
        return None
    if of[2] is None:
        return pass_at(int(of[1]), samples=samples, correct=correct)
    different = item.get("sampled_unique_correct")
    return None if different is None or int(of[1]) != samples else float(different >= int(of[2]))


def _notes(comparison: Comparison) -> list[str]:
    rounds = [row for run in comparison.runs for row in run.rounds]
    notes = [f"no round of {run.name} has ended yet" for run in comparison.runs if not run.rounds]
    if any(row.exam.problems is None for row in rounds):
        notes.append("the ledger does not tell on which problems some rounds were measured; their problem_ids were compared instead")
    if any(pair.found for pair in comparison.pairs):
        notes.append(
            "intervals are 95%, each for itself; p-values are corrected for the number of comparisons of a metric (Holm). Both are about other "
            "problems of the same source, not about training once more: only runs with other seeds tell that"
        )
    return notes
