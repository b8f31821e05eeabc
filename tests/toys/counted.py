"""An exam that keeps what `PassAtK` keeps of each problem, and reckons without scipy, so that a run with it takes a fraction of a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ratchet.components.evaluation.pass_at_k import pass_at
from ratchet.protocols import Report
from ratchet.records import Rollout


@dataclass(frozen=True, kw_only=True)
class Counted:
    samples: int = 4
    temperature: float = 1.0

    def evaluate(self, greedy: Sequence[Rollout], sampled: Sequence[Rollout]) -> Report:
        correct = {first.problem_id: sum(r.outcome == "correct" for r in sampled if r.problem_id == first.problem_id) for first in greedy}
        metrics = {"pass_at_1": fmean(r.outcome == "correct" for r in greedy), "length": fmean(r.tokens for r in greedy)}
        metrics |= {"sampled_accuracy": fmean(correct.values()) / self.samples, "distinct_answers": fmean(1.0 + c / 10 for c in correct.values())}
        metrics |= {f"pass_at_{k}": fmean(pass_at(k, samples=self.samples, correct=c) for c in correct.values()) for k in (2, self.samples)}
        return Report(metrics=metrics, items=[self._row(r, correct[r.problem_id]) for r in greedy])

    def _row(self, first: Rollout, correct: int) -> dict[str, Any]:
        return {
            **{"problem_id": first.problem_id, "correct": first.outcome == "correct", "outcome": first.outcome, "reward": first.reward},
            **{"sampled": self.samples, "sampled_correct": correct, "sampled_unique_correct": min(correct, 1)},
        }
