"""What a round's rollouts gave, problem by problem, as plain sums: how many problems nothing solved, how many are solved always, how many
give a reward that tells one rollout from another. The policy's own, verified rollouts only; what a teacher made is no yield.
"""

from collections.abc import Sequence

from ratchet.records import Record, Rollout


def yields(selected_from: Sequence[Record]) -> dict[str, float]:
    """The sums; shares are for whoever reads them to take."""
    problems: dict[str, list[Rollout]] = {}
    for rollout in selected_from:  # a selector may read other rows, too
        if isinstance(rollout, Rollout) and rollout.outcome is not None and rollout.source is None:
            problems.setdefault(rollout.problem_id, []).append(rollout)
    if not problems:
        return {}
    groups = list(problems.values())
    entropies = [rollout.entropy for mine in groups for rollout in mine if rollout.entropy is not None]
    told = {"entropies": len(entropies), "entropy_sum": sum(entropies)} if entropies else {}
    return {
        "problems": len(groups),
        "own": sum(map(len, groups)),
        "never_solved": sum(all(r.outcome != "correct" for r in mine) for mine in groups),
        "always_solved": sum(all(r.outcome == "correct" for r in mine) for mine in groups),
        "telling": sum(len({r.reward for r in mine}) > 1 for mine in groups),
        "distinct": sum(len({r.completion for r in mine}) for mine in groups),
        "unhealthy": sum(r.outcome in ("timeout", "crashed") for mine in groups for r in mine),
        **told,
    }
