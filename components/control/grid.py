"""Grids of a controller: values in exact decimals, and the cells that were probed, once they are whole and can be compared."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from ratchet.components.self_training.selection import by_problem
from ratchet.errors import InputError
from ratchet.records import Rollout


def decimals(low: float, high: float, step: float) -> tuple[float, ...]:
    """low, low + step, …, high, each the float nearest to its decimal: -1 to 1 by 0.1 holds 0.3, not 0.30000000000000004."""
    first, last, stride = Decimal(str(low)), Decimal(str(high)), Decimal(str(step))
    if stride <= 0 or last < first or (last - first) % stride:
        raise InputError("a range goes from low to high in whole steps", got=f"{low} to {high} by {step}", allowed="such as -1 to 1 by 0.1")
    return tuple(float(first + index * stride) for index in range(int((last - first) / stride) + 1))


def probed(cells: Mapping[str, Sequence[Rollout]], keys: Sequence[str]) -> dict[str, dict[str, list[Rollout]]]:
    """The rollouts of each cell by problem. A hole, a cell too many, or cells that were sampled differently are errors that name it."""
    if missing := [key for key in keys if key not in cells]:
        raise InputError(f"the grid has no cell {', '.join(missing)}", got=sorted(cells), allowed=f"exactly {sorted(keys)}")
    if extra := sorted(cells.keys() - set(keys)):
        raise InputError(f"the grid has a cell that nobody asked for: {', '.join(extra)}", got=sorted(cells), allowed=f"exactly {sorted(keys)}")
    found = {key: by_problem(cells[key]) for key in keys}
    samples = max((len(rollouts) for problems in found.values() for rollouts in problems.values()), default=0)
    if not samples:
        raise InputError("the probed cells hold no rollouts", got=sorted(cells), next="probe at least one problem")
    for key, problems in found.items():
        if odd := sorted(problems.keys() ^ found[keys[0]].keys()):
            raise InputError(f"cells {keys[0]} and {key} do not hold the same problems", got=f"{len(odd)} not in both, such as {odd[0]}")
        for problem_id, rollouts in problems.items():
            if sorted(rollout.sample for rollout in rollouts) != list(range(samples)):
                got = f"samples {sorted(rollout.sample for rollout in rollouts)}"
                raise InputError(f"cell {key} has not all samples of problem {problem_id} once", got=got, allowed=f"0 to {samples - 1} in every cell")
    return found
