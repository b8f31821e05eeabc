"""What goes back and forth between a navigator and a generator that tell each other's data apart (SRDF, 2412.08467).

walks that reached their goal  -Paths->         problems of the generator: prompt = the actions
the generator's rollouts       -Instructions->  problems of the navigator: prompt = the instruction, reference = the path's actions
the navigator's walks on them  -WellFollowed->  demonstrations for either: instruction → path, or path → instruction
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ratchet.components.self_training.selection import reward_of
from ratchet.components.synthesis.speaking import GENERATOR
from ratchet.components.synthesis.teacher import TEACHER
from ratchet.errors import InputError
from ratchet.records import Demonstration, Problem, Rollout


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Verified walks as paths without instructions: the pool that is to be told. Walks that did not reach their goals are left out."""

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Problem]:
        for rollout in rollouts:
            if reward_of(rollout) > 0:
                yield Problem(id=rollout.problem_id, prompt=rollout.completion, episode=rollout.episode, group=rollout.group)


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """The generator's instructions as problems of the navigator, each instruction of a path once."""

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Problem]:
        told: set[tuple[str, str]] = set()
        for rollout in rollouts:
            if (rollout.problem_id, rollout.completion) not in told:
                told.add((rollout.problem_id, rollout.completion))
                name = f"{rollout.problem_id}/{rollout.sample}"
                yield Problem(id=name, prompt=rollout.completion, reference=rollout.prompt, episode=rollout.episode, group=rollout.group)


def told_path(problem_id: str) -> str:
    """The id of the path that an instruction of `Instructions` tells."""
    return problem_id.rpartition("/")[0]


@dataclass(frozen=True, kw_only=True)
class WellFollowed:
    """Of the navigator's walks on instructions those that followed them, as demonstrations of the path told, for one of the two.

    Handed in besides:

    - the teacher's verified walks are the seed: what they were told and how they went is kept as it stands;
    - the generator's own rollouts are untried instructions: kept, for the navigator alone, of paths of which no walk was.

    SRDF keeps SPL = 1 for the generator, whose instructions must be right, and nDTW ≥ 0.9 for the navigator, which gets what the
    generator says anew where nothing was kept (after SRDF, 2412.08467; the shares and the pool are ours).
    """

    learner: Literal["navigator", "generator"]
    spl: float = 0.0
    """The least that is kept, as `Followed` scores it."""
    ndtw: float = 0.0

    def __post_init__(self) -> None:
        if self.learner not in ("navigator", "generator"):
            raise InputError("unknown learner", got=self.learner, allowed="navigator, generator")
        for name in ("spl", "ndtw"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share", got=getattr(self, name), allowed="from 0 to 1")

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Demonstration]:
        seed = [rollout for rollout in rollouts if rollout.source == TEACHER and reward_of(rollout) > 0]
        walks = [rollout for rollout in rollouts if rollout.source is None and self._followed(rollout)]
        kept = {told_path(rollout.problem_id) for rollout in walks}
        untried = [rollout for rollout in rollouts if rollout.source == GENERATOR and rollout.problem_id not in kept]
        pairs = [
            *((rollout, rollout.prompt, rollout.completion) for rollout in seed),
            *((rollout, rollout.prompt, rollout.reference or "") for rollout in walks),
            *((rollout, rollout.completion, rollout.prompt) for rollout in untried if self.learner == "navigator"),
        ]
        distinct: dict[tuple[str, str], tuple[Rollout, str, str]] = {}
        for rollout, instruction, path in pairs:
            distinct.setdefault((rollout.problem_id, instruction), (rollout, instruction, path))
        for rollout, instruction, path in distinct.values():
            prompt, completion = (instruction, path) if self.learner == "navigator" else (path, instruction)
            yield Demonstration(prompt=prompt, completion=completion, problem_id=rollout.problem_id, episode=rollout.episode)

    def _followed(self, rollout: Rollout) -> bool:
        if rollout.scores is None or not {"spl", "ndtw"} <= rollout.scores.keys():
            what = f"sample {rollout.sample} of problem {rollout.problem_id} was not measured by the path that it was told"
            raise InputError(what, got=dict(rollout.scores or {}), allowed="scores spl and ndtw", next="verify with Followed")
        return rollout.scores["spl"] >= self.spl and rollout.scores["ndtw"] >= self.ndtw
