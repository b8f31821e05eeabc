"""Two roles in one report: how well the navigator finds its way, and whether the generator's instructions can be followed.

The navigator's metrics are those of `Navigation`, on the task's own problems. The generator's are of walks on its instructions for the
test paths by a navigator that never changes, round 0's: its partner has learned its ways, good or bad, and would find them clear.

- `generator_success`: share of the instructions on which that navigator stops where the path does;
- `generator_spl`, `generator_ndtw`: means, against the path that was told;
- `generator_words`: words of an instruction, on average.

All are means over paths, with intervals as in `Navigation`. What an unskilled reader fails at counts against the generator here, so the
numbers compare rounds and runs with the same round 0, and no instructions for other readers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from ratchet.components.evaluation.intervals import Intervals
from ratchet.components.policies.graph_agent import words_of
from ratchet.components.self_training.flywheel import told_path
from ratchet.errors import InputError
from ratchet.protocols import Report
from ratchet.records import Rollout


@dataclass(frozen=True, kw_only=True)
class Flywheel:
    """Greedy rollouts are the navigator's; the sampled ones are the fixed navigator's, on the generator's instructions."""

    headline = ("success", "spl", "generator_success")

    navigation: Any
    """A `Navigation` of greedy walks, whose intervals are also the generator's."""

    def __post_init__(self) -> None:
        if self.navigation.samples:
            what = "the flywheel's navigator is measured by its greedy walks"
            raise InputError(what, got=f"navigation.samples={self.navigation.samples}", allowed="navigation.samples=0")

    def evaluate(self, greedy: Sequence[Rollout], sampled: Sequence[Rollout]) -> Report:
        report: Report = self.navigation.evaluate(greedy, [])
        paths: dict[str, list[Rollout]] = {}
        for rollout in sampled:
            paths.setdefault(told_path(rollout.problem_id), []).append(rollout)
        return replace(report, metrics={**report.metrics, **self._generator(paths)}, items=[_item(row, paths) for row in report.items])

    def _generator(self, paths: Mapping[str, Sequence[Rollout]]) -> dict[str, float]:
        if not paths:
            raise InputError("there is no walk on the generator's instructions", next="hand them to `evaluate` as its second rollouts")
        exam = self.navigation
        intervals = Intervals(confidence=exam.confidence, resamples=exam.resamples, seed=exam.seed)
        found = intervals.mean("generator_success", [fmean(walk.outcome == "correct" for walk in walks) for walks in paths.values()])
        for name in ("spl", "ndtw"):
            found |= intervals.mean(f"generator_{name}", [fmean(_score(walk, name) for walk in walks) for walks in paths.values()])
        return found | intervals.mean("generator_words", [fmean(len(words_of(walk.prompt)) for walk in walks) for walks in paths.values()])


def _score(walk: Rollout, name: str) -> float:
    if walk.scores is None or name not in walk.scores:
        raise InputError(f"the walk on {walk.problem_id} has no {name}", got=sorted(walk.scores or {}), next="verify with Followed")
    return walk.scores[name]


def _item(row: Mapping[str, Any], paths: Mapping[str, Sequence[Rollout]]) -> dict[str, Any]:
    """A problem's row, with what was said of its path and how that was followed."""
    walks = paths.get(row["problem_id"], [])
    return {**row, "instructions": [walk.prompt for walk in walks], "followed": [_score(walk, "spl") for walk in walks]}
