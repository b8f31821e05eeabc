"""Rollouts in an environment judged by where they end.

    correct    the agent stopped where the environment says `success`                   reward 1
    wrong      it stopped elsewhere, or was cut before it stopped                       reward 0
    unparsed   the completion's actions are none that the episode offers                reward 0

The answer is the last place. SID's rule (2509.24910): nothing but the goal counts, neither the length of the path nor coming near. An
episode that the environment does not have is the input's fault and an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.protocols import STOP
from ratchet.records import Outcome, Rollout


@dataclass(frozen=True, kw_only=True)
class ReachedGoal:
    """Right if the agent says stop at a goal."""

    environment: Any
    """An `Environment`."""
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise InputError("rows_per_shard is too small", got=self.rows_per_shard, allowed="1, 2, … or null")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in rollouts:
            outcome, answer = self._judge(rollout)
            reward = float(outcome == "correct")
            yield replace(rollout, answer=answer, outcome=outcome, reward=reward, scores={"outcome": reward})

    def _judge(self, rollout: Rollout) -> tuple[Outcome, str | None]:
        path = path_of(self.environment, rollout)
        if path is None:
            return "unparsed", None
        measured = self.environment.judge(episode_of(rollout), path)
        return ("correct" if rollout.finished and measured["success"] == 1 else "wrong"), path[-1]


def episode_of(rollout: Rollout) -> Mapping[str, Any]:
    """The episode that a rollout is of."""
    if rollout.episode is None:
        what = f"the problem {rollout.problem_id} has no episode, so there is no world to judge its rollouts in"
        raise InputError(what, next="give a task whose problems carry episodes")
    return rollout.episode


def path_of(environment: Any, rollout: Rollout) -> list[str] | None:
    """The places that a rollout's actions pass, the start first; None if they are no walk. A wrong episode is an InputError."""
    walk, actions = environment.open(episode_of(rollout)), rollout.completion.split()
    if rollout.finished != (actions[-1:] == [STOP]):
        return None
    try:
        for action in actions[: len(actions) - rollout.finished]:
            walk.step(action)
    except InputError:
        return None
    path: list[str] = walk.path
    return path
