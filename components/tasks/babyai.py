"""BabyAI's missions, such as `go to the red ball`, each in a level that `minigrid` makes from a seed.

Levels take turns within a split, and the problems of a level stand together. No two problems of a task have the same level and seed, so
the splits share no level, though the same words may be asked for in many. `difficulty` is the number of cells on the shortest way, the
start and the goal included; the reference are the cells in which to stop.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ratchet.components.environments.babyai import Grids
from ratchet.components.environments.babyai_levels import check_level, generate
from ratchet.components.tasks.splits import CARVED, Split, check_size, check_split
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.records import Problem

TAKEN = tuple(split for split in CARVED if split != "prm")


@dataclass(frozen=True, kw_only=True)
class BabyAI:
    """Problems of one split; sizes are numbers of problems, over all levels."""

    split: Split = "train"
    worked: int = 400
    train: int = 400
    dev: int = 100
    test: int = 200
    levels: tuple[str, ...] = ("BabyAI-GoToS5R3N6-v0",)
    """Environment ids of minigrid, and sizes of your own in its scheme: S cells a room from wall to wall, R rooms a side, N objects."""
    problem_seed: int = 0
    """Other levels for another seed; it is not the run's seed, so runs compare on the same problems."""

    def __post_init__(self) -> None:
        check_split(self.split)
        if self.split == "prm":
            raise InputError("navigation has no prm split", allowed="worked, train, dev, test", next="set process_reward=null")
        for split in TAKEN:
            check_size(split, getattr(self, split))
        if not self.levels or len(set(self.levels)) < len(self.levels):
            raise InputError("levels are not different levels", got=list(self.levels), allowed="such as [BabyAI-GoToObjMazeS5-v0]")
        for level in self.levels:
            check_level(level)

    def propose(self) -> Iterator[Problem]:
        start = sum(getattr(self, split) for split in TAKEN[: TAKEN.index(self.split)])
        numbers = range(start, start + getattr(self, self.split))
        first = derive_seed(self.problem_seed, "babyai")
        for turn, level in enumerate(self.levels):
            for number in numbers[turn :: len(self.levels)]:
                yield self._problem(level, first + number)

    def _problem(self, level: str, seed: int) -> Problem:
        episode = {"level": level, "seed": seed}
        path, made = Grids().shortest(episode), generate(level, seed)
        return Problem(
            id=f"{self.split}/{level}/{seed}",
            prompt=made.mission,
            reference=" ".join(made.name(cell) for cell in sorted(made.goals)),
            solution=" ".join(path),
            difficulty=len(path),
            episode=episode,
            group=level,
        )
