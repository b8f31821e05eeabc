"""Instructions for known paths, `samples` of each: a speaker tells what it takes the path to be about.

A problem is a path: its prompt are the actions, blank-separated, its episode where they are taken. A rollout's completion is the
instruction. `tokens` counts the choices made, `entropy` is theirs in nats, on average; what a sample draws depends on the stage's seed,
its problem and its number alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.components.policies.speaker import Choice, Sights, fill, load, sights_of, worded
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.interruption import safe_point
from ratchet.records import Problem, Rollout

GENERATOR = "generator"


@dataclass(frozen=True, kw_only=True)
class Speaking:
    environment: Any
    """A `GraphEnvironment`."""
    samples: int
    temperature: float
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "rows_per_shard"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} counts something", got=value, allowed="1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InputError("a temperature cannot be negative or endless", got=self.temperature, allowed="0 (greedy) or more")
        if self.temperature == 0 and self.samples > 1:
            raise InputError("greedy samples are all the same", got=f"samples={self.samples}", allowed="samples=1 where temperature is 0")

    @property
    def seeded(self) -> bool:
        return self.temperature > 0

    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        speaker = load(policy).eval()
        for problem in problems:
            sights = sights_of(self.environment, problem.episode, problem.prompt)
            for sample in range(self.samples):
                telling = Telling(speaker, sights, derive_seed(seed, problem.id, sample), self.temperature)
                yield Rollout(
                    problem_id=problem.id,
                    sample=sample,
                    prompt=problem.prompt,
                    completion=telling.instruction,
                    tokens=telling.choices,
                    entropy=telling.entropy / max(1, telling.choices),
                    episode=problem.episode,
                    group=problem.group,
                    source=GENERATOR,
                )
            safe_point()


class Telling:
    """One instruction, told."""

    def __init__(self, speaker: Any, sights: Sights, seed: int, temperature: float) -> None:
        import numpy as np

        self.choices, self.entropy = 0, 0.0
        self._speaker, self._temperature, self._draws = speaker, temperature, np.random.default_rng(seed)
        self.instruction = worded(fill(sights, speaker.shape.words, self._choose))

    def _choose(self, slot: str, choice: Choice) -> int:
        import torch

        with torch.no_grad():
            shares = (self._speaker([choice])[0].double() / (self._temperature or 1.0)).softmax(-1)
        self.choices += 1
        self.entropy += float(torch.special.entr(shares).sum())
        if not self._temperature:
            return int(shares.argmax())
        below = shares.cumsum(0)
        return min(int((below <= self._draws.random() * float(below[-1])).sum()), len(shares) - 1)
