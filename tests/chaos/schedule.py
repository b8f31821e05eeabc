"""From a seed to a schedule of deaths: the same seed, the same deaths, at the same points of the run, with the same random numbers."""

import random
from dataclasses import dataclass

from tests.chaos.deaths import DEATHS, Death

STRIKES = 14
"""About how many deaths a schedule deals."""
AXES = ("seed=0,1", "training.gain=0.01,0.02")
"""What is swept over: two runs that share what draws nothing, and two that share everything up to the first training."""


@dataclass(frozen=True)
class Schedule:
    seed: int
    deaths: tuple[Death, ...]

    @property
    def names(self) -> list[str]:
        return [death.name for death in self.deaths]

    @property
    def in_bucket(self) -> bool:
        return any(death.in_bucket for death in self.deaths)

    @property
    def axis(self) -> str | None:
        """Odd seeds disturb a sweep, over each axis in turn, and even ones a run."""
        return AXES[self.seed // 2 % len(AXES)] if self.seed % 2 else None

    @property
    def hold(self) -> bool:
        """Of the runs, every other one keeps one allocation for a whole round."""
        return self.seed % 4 == 2

    @property
    def apart(self) -> float:
        """Artifacts that are published between one death and the next, if the deaths are quick enough: those of a sweep reach its last run."""
        return 3.5 if self.axis else 2

    @property
    def replay(self) -> str:
        return f"make chaos N=1 SEED={self.seed}"

    def rng(self, strike: int) -> random.Random:
        return random.Random(f"{self.seed}/{strike}")


def hands(quick: bool) -> int:
    """Over how many schedules the deaths of a kind are dealt."""
    return -(-sum(death.slow != quick for death in DEATHS.values()) // STRIKES)


QUICK, ALL = hands(True), hands(True) + hands(False)
"""Of each `ALL` seeds in a row, from a multiple of it on, the first `QUICK` deal every quick death once, and the others every slow one."""


def schedule(seed: int) -> Schedule:
    """What a seed deals."""
    deal, hand = divmod(seed, ALL)
    rng = random.Random(deal)
    quick, slow = ([death for death in DEATHS.values() if death.slow == wanted] for wanted in (False, True))
    rng.shuffle(quick)
    rng.shuffle(slow)
    if hand < QUICK:
        return Schedule(seed, tuple(quick[hand::QUICK]))
    mixed = [*slow[hand - QUICK :: ALL - QUICK], *rng.sample(quick, STRIKES // 2)]
    random.Random(seed).shuffle(mixed)
    return Schedule(seed, tuple(mixed))
