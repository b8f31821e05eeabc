"""The shortest way to every problem's goal, as a rollout: what an agent first learns from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.protocols import STOP
from ratchet.records import Problem, Rollout

TEACHER = "teacher"


@dataclass(frozen=True, kw_only=True)
class ShortestPaths:
    """Asks the environment, not the policy."""

    environment: Any
    """A `GraphEnvironment`."""
    seeded = False

    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        for problem in problems:
            walk, actions = self.environment.open(problem.episode), list[str]()
            while actions[-1:] != [STOP]:
                actions.append(walk.teacher())
                if actions[-1] != STOP:
                    walk.step(actions[-1])
            yield Rollout(
                problem_id=problem.id,
                sample=0,
                prompt=problem.prompt,
                completion=" ".join(actions),
                reference=problem.reference,
                tokens=len(actions),
                episode=problem.episode,
                group=problem.group,
                source=TEACHER,
            )
