"""SID's demonstrations: the agent's own trajectories that ended at the goal, with a share of shortest paths (2509.24910).

1. Of the policy's rollouts those are kept that stopped at the goal (reward 1), each path of a problem once, and none that is longer
   than `max_ratio` times the teacher's, in actions;
2. of a problem at most `max_per_problem` are kept, by sample number;
3. the teacher's rollouts are added until they are the share `shortest` of all: problems by turns, those that the policy did not solve
   first, else in an order of their names' hashes.

The reference keeps every success (no dedup, no cap, no ratio) and nothing of the teacher's; the paper's reviews say that the two were
mixed, in a share that is not published. `shortest=1` keeps the teacher's alone: the control of plain imitation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ratchet.components.self_training.selection import by_problem, check_counts, reward_of
from ratchet.components.synthesis.teacher import TEACHER
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.records import Demonstration, Rollout


@dataclass(frozen=True, kw_only=True)
class Explored:
    shortest: float = 0.0
    """Share of the demonstrations that are the teacher's."""
    max_ratio: float | None = None
    """None: a success is kept however long it took."""
    max_per_problem: int | None = None
    """None: no cap."""

    def __post_init__(self) -> None:
        check_counts(max_per_problem=self.max_per_problem)
        if not 0 <= self.shortest <= 1:
            raise InputError("shortest is a share of the demonstrations", got=self.shortest, allowed="from 0 to 1")
        if self.max_ratio is not None and self.max_ratio < 1:
            raise InputError("no path is shorter than the shortest", got=self.max_ratio, allowed="max_ratio from 1, or null for no cap")

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Demonstration]:
        taught = {rollout.problem_id: rollout for rollout in rollouts if rollout.source == TEACHER and reward_of(rollout) > 0}
        own = by_problem(rollout for rollout in rollouts if rollout.source != TEACHER)
        explored = {problem: self._kept(given, taught.get(problem)) for problem, given in own.items()} if self.shortest < 1 else {}
        kept = [rollout for given in explored.values() for rollout in given]
        wanted = len(taught) if self.shortest == 1 else round(len(kept) * self.shortest / (1 - self.shortest))
        solved = {problem for problem, given in explored.items() if given}
        turns = sorted(taught.values(), key=lambda rollout: (rollout.problem_id in solved, derive_seed(rollout.problem_id)))
        for rollout in (*kept, *turns[:wanted]):
            yield Demonstration(prompt=rollout.prompt, completion=rollout.completion, problem_id=rollout.problem_id, episode=rollout.episode)

    def _kept(self, rollouts: Sequence[Rollout], teacher: Rollout | None) -> list[Rollout]:
        reached = [rollout for rollout in rollouts if reward_of(rollout) > 0 and rollout.finished]
        distinct = {rollout.completion: rollout for rollout in sorted(reached, key=lambda rollout: -rollout.sample)}
        if self.max_ratio is not None:
            if reached and teacher is None:
                raise InputError(f"problem {reached[0].problem_id} has no shortest path to compare with", next="select the teacher's rollouts too")
            distinct = {text: r for text, r in distinct.items() if teacher and len(text.split()) <= self.max_ratio * len(teacher.completion.split())}
        return sorted(distinct.values(), key=lambda rollout: rollout.sample)[: self.max_per_problem]
