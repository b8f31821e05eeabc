"""How good a policy is on held-out problems, and how much it still explores: pass@1, pass@k, Pass@K-S, Reward@K-S, diversity.

With K = `samples` rollouts of a problem, c of them correct:

- `pass_at_1`: share of problems whose greedy rollout is correct; `sampled_accuracy`: mean of c/K;
- `pass_at_k` = mean of 1 - C(K-c, k) / C(K, k): unbiased (Chen et al. 2107.03374, eq. 1), in whole numbers, so that nothing cancels;
- `pass_at_K_sS`: share of problems with S or more correct rollouts of different text (B-STaR 2412.17256, §2: exploration);
- `reward_at_K_sS`: share of problems whose S rollouts of highest reward are all correct; S = 1: best of K (same place: exploitation);
- `distinct_equations`: different equations / equations over a problem's correct rollouts, mean over the problems that have any, of
  which there are `distinct_equations_problems`; `distinct_answers`: different answers read per problem;
- `token_entropy`: mean over sampled rollouts, in nats, each the mean over its tokens; left out where the sampler gave none;
- `length` (tokens), `reward`, and the shares `unparsed`, `timeout`, `crashed`, `unfinished`: means over the greedy rollouts, and as
  `sampled_…` over the sampled ones.

Each but the count has `.low` and `.high`: Wilson's interval where a problem counts 0 or 1, else the percentile bootstrap over problems
(none for a single problem; too narrow for a handful, and of no width where all problems agree). They are about other problems of the
same source, not about another draw of rollouts. Left out: near duplicates of a text, and any correction for looking at many metrics.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean
from typing import Any

from ratchet.components.evaluation.drawn import check_drawn
from ratchet.components.evaluation.intervals import Intervals
from ratchet.components.self_training.selection import best_first, by_problem, is_correct, reward_of
from ratchet.errors import InputError
from ratchet.protocols import Report
from ratchet.records import Rollout

TRAITS: dict[str, Callable[[Rollout], bool]] = {
    "unparsed": lambda rollout: rollout.outcome == "unparsed",
    "timeout": lambda rollout: rollout.outcome == "timeout",
    "crashed": lambda rollout: rollout.outcome == "crashed",
    "unfinished": lambda rollout: not rollout.finished,
}


@dataclass(frozen=True, kw_only=True)
class PassAtK:
    samples: int
    """K rollouts of each problem; 0: only greedy ones, and only what they tell."""
    temperature: float
    """At which the K are drawn."""
    ks: tuple[int, ...]
    """The k of pass@k, from 2 to K."""
    s_values: tuple[int, ...]
    """The S of Pass@K-S and Reward@K-S, from 1 to K."""
    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0
    """Of the bootstrap, not of the rollouts."""
    equation_pattern: str = r"\d[-+*/().\d \t]*=[ \t]*-?\d+(?:\.\d+)?"
    """A regular expression; blanks in what it finds do not count. For LaTeX: `\\$[^$]+\\$|\\\\\\[.+?\\\\\\]`."""

    def __post_init__(self) -> None:
        if self.samples < 0 or self.resamples < 1:
            raise InputError("samples and resamples count something", got=(self.samples, self.resamples), allowed="samples 0 or more, resamples 1")
        if self.samples and self.temperature <= 0:
            raise InputError("sampled rollouts need a temperature", got=self.temperature, allowed="above 0, or samples=0 for greedy ones alone")
        if self.samples and not all(2 <= k <= self.samples for k in self.ks):
            raise InputError("pass@k needs k samples, and pass@1 is greedy", got=list(self.ks), allowed=f"ks from 2 to samples={self.samples}")
        if self.samples and not all(1 <= s <= self.samples for s in self.s_values):
            raise InputError("S of K samples", got=list(self.s_values), allowed=f"s_values from 1 to samples={self.samples}")
        if not 0 < self.confidence < 1:
            raise InputError("a confidence is a share", got=self.confidence, allowed="between 0 and 1, such as 0.95")
        try:
            re.compile(self.equation_pattern)
        except re.error as error:
            raise InputError(f"equation_pattern is no regular expression: {error}", got=self.equation_pattern) from None

    def evaluate(self, greedy: Sequence[Rollout], sampled: Sequence[Rollout]) -> Report:
        first, drawn = by_problem(greedy), by_problem(sampled)
        check_drawn(first, drawn, self.samples)
        intervals = Intervals(confidence=self.confidence, resamples=self.resamples, seed=self.seed)
        metrics = intervals.share("pass_at_1", [is_correct(rollout) for rollout in greedy])
        metrics |= _described(intervals, first, "")
        if self.samples:
            metrics |= self._solved(intervals, list(drawn.values()))
            metrics |= self._explored(intervals, list(drawn.values()))
            metrics |= _described(intervals, drawn, "sampled_")
        return Report(metrics=metrics, items=[_item(rollout, drawn.get(rollout.problem_id, [])) for rollout in greedy])

    def _solved(self, intervals: Intervals, problems: Sequence[Sequence[Rollout]]) -> dict[str, float]:
        """How many problems the samples solve, and whether the reward would find the solution."""
        correct = [sum(map(is_correct, rollouts)) for rollouts in problems]
        unique = [_unique_correct(rollouts) for rollouts in problems]
        ranked = [[is_correct(rollout) for rollout in best_first(rollouts)] for rollouts in problems]
        found = intervals.mean("sampled_accuracy", [c / self.samples for c in correct])
        for k in self.ks:
            if k == self.samples:
                found |= intervals.share(f"pass_at_{k}", [c > 0 for c in correct])
            else:
                found |= intervals.mean(f"pass_at_{k}", [pass_at(k, samples=self.samples, correct=c) for c in correct])
        for s in self.s_values:
            found |= intervals.share(f"pass_at_{self.samples}_s{s}", [u >= s for u in unique])
            found |= intervals.share(f"reward_at_{self.samples}_s{s}", [all(flags[:s]) for flags in ranked])
        return found

    def _explored(self, intervals: Intervals, problems: Sequence[Sequence[Rollout]]) -> dict[str, float]:
        """How much the samples differ."""
        ratios = [ratio for rollouts in problems if (ratio := distinct_equations(rollouts, self.equation_pattern)) is not None]
        answers = [len({rollout.answer for rollout in rollouts if rollout.answer is not None}) for rollouts in problems]
        entropies = [[rollout.entropy for rollout in rollouts if rollout.entropy is not None] for rollouts in problems]
        return {
            "distinct_equations_problems": len(ratios),
            **intervals.mean("distinct_equations", ratios),
            **intervals.mean("distinct_answers", answers),
            **intervals.mean("token_entropy", [fmean(found) for found in entropies if found]),
        }


def pass_at(k: int, *, samples: int, correct: int) -> float:
    """The chance that k of a problem's samples, drawn without replacement, hold a correct one."""
    return (comb(samples, k) - comb(samples - correct, k)) / comb(samples, k)


def distinct_equations(rollouts: Sequence[Rollout], pattern: str) -> float | None:
    """Different equations / equations in the correct rollouts of a problem; None if they have none."""
    texts = [rollout.completion for rollout in rollouts if is_correct(rollout)]
    equations = ["".join(match.group().split()) for text in texts for match in re.finditer(pattern, text)]
    return len(set(equations)) / len(equations) if equations else None


def _unique_correct(rollouts: Sequence[Rollout]) -> int:
    return len({rollout.completion for rollout in rollouts if is_correct(rollout)})


def _described(intervals: Intervals, problems: Mapping[str, Sequence[Rollout]], prefix: str) -> dict[str, float]:
    """What rollouts are like, whether they solve anything or not; every problem has equally many."""
    found: dict[str, float] = {}
    groups = list(problems.values())
    for name, measure in (("length", lambda rollout: rollout.tokens), ("reward", reward_of)):
        found |= intervals.mean(f"{prefix}{name}", [fmean(map(measure, rollouts)) for rollouts in groups])
    for name, holds in TRAITS.items():
        if prefix:
            found |= intervals.mean(f"{prefix}{name}", [fmean(map(holds, rollouts)) for rollouts in groups])
        else:
            found |= intervals.share(name, [holds(rollouts[0]) for rollouts in groups])
    return found


def _item(greedy: Rollout, sampled: Sequence[Rollout]) -> dict[str, Any]:
    row = {"problem_id": greedy.problem_id, "correct": is_correct(greedy), "outcome": greedy.outcome, "reward": reward_of(greedy)}
    if sampled:
        row |= {"sampled": len(sampled), "sampled_correct": sum(map(is_correct, sampled)), "sampled_unique_correct": _unique_correct(sampled)}
    return row
