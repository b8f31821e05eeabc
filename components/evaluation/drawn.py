"""What an evaluation is given, checked: a missing or a doubled rollout would move every mean."""

from collections.abc import Mapping, Sequence

from ratchet.errors import InputError
from ratchet.records import Rollout


def check_drawn(first: Mapping[str, Sequence[Rollout]], drawn: Mapping[str, Sequence[Rollout]], samples: int) -> None:
    """Every problem has one greedy rollout and `samples` sampled ones, or InputError."""
    if not first:
        raise InputError("there is nothing to evaluate", next="check the task's test split")
    if twice := [problem for problem, rollouts in first.items() if len(rollouts) > 1]:
        raise InputError("a problem has one greedy rollout", got=f"{len(first[twice[0]])} of problem {twice[0]}")
    for problem in dict.fromkeys([*first, *drawn]):
        numbers = sorted(rollout.sample for rollout in drawn.get(problem, []))
        if numbers != list(range(samples)) or problem not in first:
            allowed = f"one greedy and samples 0 to {samples - 1}" if samples else "one greedy, none sampled"
            raise InputError(f"problem {problem} is not rolled out as asked", got=f"sampled {numbers}", allowed=allowed)
