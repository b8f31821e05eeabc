"""The sampling temperature and reward threshold of the coming round, by the best balance score on a few problems: B-STaR (2412.17256).

For problem i with n_i selected rollouts (the rule of `Threshold`, so they are distinct), n'_i of them correct,

    bs_i = min(n'_i / n*, 1) · n'_i / n_i      n* = ceil(N / M)      BS(t, τ) = mean of bs_i over the problems      (§4, Algorithm 1)

with N = `samples_wanted` in the round and M the problems it will sample. The first factor is exploration (enough distinct correct
rollouts; capped, so that easy problems cannot buy the score), the second exploitation (how clean the selection is). A problem of which
nothing is selected counts 0. One set of rollouts per temperature is sampled and verified; the thresholds only cut it again.

- `grow`: the cap per problem grows as the selector's does with a `target`, here the probed problems' share of N (the reference code).
- `count_reference`: the reference solution counts as one more correct rollout of reward 1 for every problem (the reference code). It
  lifts BS to at least 1/n* where nothing else is selected and τ < 1: a floor that says nothing about the policy, hence off by default.

Ties go to the cell nearest the start values `temperature` and `threshold`, temperature first, then to the lower temperature and the
higher threshold: no knob moves without a gain. Scores are compared at 12 decimals, so that no order of summation decides.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ratchet.components.control.grid import decimals, probed
from ratchet.components.self_training.selection import cap_for, check_counts, is_correct, ranking, reward_of
from ratchet.errors import InputError
from ratchet.identity import decimal_key
from ratchet.protocols import Decision
from ratchet.records import Problem, Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Balance:
    samples_wanted: int
    """N, demonstrations wanted in a round."""
    knobs: Literal["fixed", "temperature", "threshold", "both"] = "both"
    """What is searched; the other keeps its start value, and the balance is measured all the same."""
    temperature: float = 1.0
    threshold: float = 0.0
    temperatures: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
    threshold_low: float = -1.0
    threshold_high: float = 1.0
    threshold_step: float = 0.1
    correct_only: bool = False
    """This and the next two as the selector has them: its rule is what is measured."""
    complete_only: bool = True
    max_per_problem: int | None = None
    grow: bool = False
    count_reference: bool = False

    def __post_init__(self) -> None:
        check_counts(samples_wanted=self.samples_wanted, max_per_problem=self.max_per_problem)
        if self.knobs not in ("fixed", "temperature", "threshold", "both"):
            raise InputError("knobs says what is searched", got=self.knobs, allowed="fixed, temperature, threshold, both")
        keys = [decimal_key(value) for value in self.temperatures]
        if not keys or len(set(keys)) < len(keys) or min(*self.temperatures, self.temperature) <= 0:
            raise InputError("temperatures are probed once each", got=keys, allowed="one or more, different, above 0")
        decimals(self.threshold_low, self.threshold_high, self.threshold_step)

    @property
    def grid(self) -> dict[str, tuple[float, ...]]:
        """What must be probed before `adjust`: field of the synthesizer → values."""
        return {"temperature": self.temperatures if self.knobs in ("temperature", "both") else (self.temperature,)}

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The thresholds searched."""
        if self.knobs in ("fixed", "temperature"):
            return (self.threshold,)
        return decimals(self.threshold_low, self.threshold_high, self.threshold_step)

    def adjust(self, cells: Mapping[str, Sequence[Rollout]], problems: Sequence[Problem]) -> Decision:
        grid = {decimal_key(value): float(value) for value in self.grid["temperature"]}
        problems_of = probed(cells, list(grid))
        if not problems:
            raise InputError("there are no problems to sample in the round", next="check the task's train split")
        n_star = -(-self.samples_wanted // len(problems))
        rows: list[dict[str, float]] = []
        for key, temperature in grid.items():
            rewards, correct = self.ranked(problems_of[key].values())
            target = -(-self.samples_wanted * len(rewards) // len(problems)) if self.grow else None
            scores = balance_grid(rewards, correct, self.thresholds, n_star=n_star, target=target, limit=self.max_per_problem)
            rows += [{"temperature": temperature, **score} for score in scores]
        best = min(rows, key=self._preference)
        knobs = {name: best[name] for name in ("temperature", "threshold")}
        share = best["selected"] / len(cells[decimal_key(best["temperature"])])
        numbers = {name: value for name, value in best.items() if name not in knobs}
        return Decision(knobs=knobs, metrics={**numbers, "n_star": n_star, "selected_share": share}, cells=rows)

    def _preference(self, row: Mapping[str, float]) -> tuple[float, ...]:
        """Smaller is better."""
        away = round(abs(row["temperature"] - self.temperature), DIGITS), round(abs(row["threshold"] - self.threshold), DIGITS)
        return -row["balance"], *away, row["temperature"], -row["threshold"]

    def ranked(self, problems: Iterable[Sequence[Rollout]]) -> "tuple[NDArray[np.float64], NDArray[np.bool_]]":
        """Rewards and correctness (problems × candidates), best first, padded with rewards of -inf."""
        import numpy as np

        candidates = [ranking(given, correct_only=self.correct_only, complete_only=self.complete_only) for given in problems]
        scored = [[(reward_of(rollout), is_correct(rollout)) for rollout in given] for given in candidates]
        if self.count_reference:
            # Stable: of equal rewards the policy's own rollout comes first.
            scored = [sorted([*given, (1.0, True)], key=lambda pair: -pair[0]) for given in scored]
        width = max(map(len, scored))
        rewards, correct = np.full((len(scored), width), -np.inf), np.zeros((len(scored), width), dtype=bool)
        for index, given in enumerate(scored):
            if given:
                rewards[index, : len(given)], correct[index, : len(given)] = zip(*given, strict=True)
        return rewards, correct


def balance_grid(
    rewards: "NDArray[np.float64]",
    correct: "NDArray[np.bool_]",
    thresholds: Sequence[float],
    *,
    n_star: int,
    target: int | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, float]]:
    """The balance score at each threshold, with what it is made of, from candidates (problems × candidates) ranked best first.

    `exploration` and `exploitation` are the means of the two factors, `selected` = Σ n_i, `correct` = Σ n'_i, `empty` = problems of
    which nothing is selected, `cap` = what a problem may give at most.
    """
    import numpy as np

    problems = len(rewards)
    correct_of_best = np.pad(correct.cumsum(axis=1), ((0, 0), (1, 0)))  # [i, n]: correct ones among the n best of problem i
    for threshold in thresholds:
        above = np.count_nonzero(rewards > threshold, axis=1)
        cap = cap_for(above, target=target, limit=limit)
        selected = np.minimum(above, cap)
        good = correct_of_best[np.arange(problems), selected]
        explored, exploited = np.minimum(good / n_star, 1.0), good / np.maximum(selected, 1)
        yield {
            "threshold": float(threshold),
            "balance": round(float(np.mean(explored * exploited)), DIGITS),
            "exploration": round(float(np.mean(explored)), DIGITS),
            "exploitation": round(float(np.mean(exploited)), DIGITS),
            "selected": int(selected.sum()),
            "correct": int(good.sum()),
            "empty": int(np.count_nonzero(selected == 0)),
            "cap": cap,
        }
