"""The rollouts worth imitating: above a reward threshold, the best distinct ones of each problem.

The selection of STaR (2203.14465), RFT (2308.01825), ReST-EM (2312.06585) and B-STaR (2412.17256). One rule, which `Balance` shares:

1. a problem's candidates are its rollouts, less those that `correct_only` and `complete_only` rule out;
2. of candidates with the same text the one with the highest reward stays, and they stand in order: reward, then sample number;
3. those with reward > threshold are kept (equal is not above), best first, up to the cap of their problem.

The cap is `max_per_problem`. With a `target` it grows instead, 1, 2, 3, …, until the problems together keep that many, so that hard
problems give what they have before easy ones give more; what the last step brings above the target is kept too. If even
`max_per_problem` does not reach the target, that is all there is. A problem with nothing above the threshold is simply absent.

Left out: near duplicates (only the exact text counts), weights per problem, and adding the reference solution as a demonstration.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ratchet.errors import InputError
from ratchet.records import Demonstration, Rollout

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Threshold:
    threshold: float = 0.0
    correct_only: bool = False
    """Leave out what the verifier did not find correct, whatever its reward."""
    complete_only: bool = True
    """Leave out what was cut at the token limit and what the verifier could not judge (no answer read, timeout, crash)."""
    max_per_problem: int | None = None
    """None: no cap."""
    target: int | None = None
    """Demonstrations wanted in all; None: as many as there are."""

    def __post_init__(self) -> None:
        check_counts(max_per_problem=self.max_per_problem, target=self.target)

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Demonstration]:
        problems = by_problem(rollouts).values()
        ranked = [ranking(given, correct_only=self.correct_only, complete_only=self.complete_only) for given in problems]
        above = [[rollout for rollout in candidates if reward_of(rollout) > self.threshold] for candidates in ranked]
        cap = cap_for([len(kept) for kept in above], target=self.target, limit=self.max_per_problem)
        for kept in above:
            for rollout in kept[:cap]:
                yield Demonstration(prompt=rollout.prompt, completion=rollout.completion, problem_id=rollout.problem_id)


def by_problem(rollouts: Iterable[Rollout]) -> dict[str, list[Rollout]]:
    """Rollouts of each problem, problems in the order they first appear."""
    problems: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        problems.setdefault(rollout.problem_id, []).append(rollout)
    return problems


def ranking(rollouts: Iterable[Rollout], *, correct_only: bool, complete_only: bool) -> list[Rollout]:
    """One problem's candidates, distinct in text, best first (steps 1 and 2 of the rule)."""
    distinct: dict[str, Rollout] = {}
    for rollout in best_first(rollouts):
        if correct_only and not is_correct(rollout):
            continue
        if complete_only and not (rollout.finished and rollout.outcome in ("correct", "wrong")):
            continue
        distinct.setdefault(rollout.completion, rollout)
    return list(distinct.values())


def best_first(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """By reward, highest first; equal rewards by sample number, so that no order is left to chance."""
    return sorted(rollouts, key=lambda rollout: (-reward_of(rollout), rollout.sample))


def reward_of(rollout: Rollout) -> float:
    if rollout.reward is None:
        raise InputError(f"sample {rollout.sample} of problem {rollout.problem_id} has no reward", next="pass rollouts through `verify` first")
    return rollout.reward


def is_correct(rollout: Rollout) -> bool:
    if rollout.outcome is None:
        raise InputError(f"sample {rollout.sample} of problem {rollout.problem_id} has no outcome", next="pass rollouts through `verify` first")
    return rollout.outcome == "correct"


def cap_for(above: "Sequence[int] | NDArray[np.int64]", *, target: int | None, limit: int | None) -> int:
    """The most that a problem may give, from how many each has above the threshold (step 3 of the rule)."""
    import numpy as np

    above = np.asarray(above, dtype=np.int64)
    most = int(above.max(initial=0))
    limit = most if limit is None else min(limit, most)
    if target is None or limit == 0:
        return limit
    giving = np.bincount(np.minimum(above, limit), minlength=limit + 1)[::-1].cumsum()[::-1]  # [k]: problems that have k or more
    kept = giving[1:].cumsum()  # [k - 1]: demonstrations under a cap of k
    return min(int(np.searchsorted(kept, target)) + 1, limit)


def check_counts(**counts: int | None) -> None:
    """Fields that count something are 1 or more, or None."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name} counts something", got=count, allowed="1 or more, or null for no bound")
