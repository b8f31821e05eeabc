"""Where the answer stands in a completion, and what it is held against."""

from ratchet.errors import InputError
from ratchet.records import Rollout


def after_marker(completion: str, marker: str | None) -> str | None:
    """What follows the last marker on its line, stripped; all of the completion if there is no marker to look for; None if nothing."""
    if marker is None:
        return completion.strip() or None
    _, found, rest = completion.rpartition(marker)
    return (rest.partition("\n")[0].strip() or None) if found else None


def reference_of(rollout: Rollout) -> str:
    """The reference answer of a rollout's problem, stripped."""
    if rollout.reference is None or not rollout.reference.strip():
        what = f"the problem {rollout.problem_id} has no reference, so its rollouts cannot be judged"
        raise InputError(what, next="give a task whose problems carry references")
    return rollout.reference.strip()
