"""The default's own parts, each broken in the one way that its gate is there for."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from ratchet.components.tasks.arithmetic import Arithmetic
from ratchet.components.verification.exact import Exact
from ratchet.records import Problem, Rollout


@dataclass(frozen=True, kw_only=True)
class Leaky(Arithmetic):
    """Its training problems are mixed with test problems."""

    leak: int = 0

    def propose(self) -> Iterator[Problem]:
        own = super().propose()
        if self.split == "train":
            taken = islice(replace(self, split="test").propose(), self.leak)
            own = chain((replace(problem, id=f"train-{problem.id}") for problem in taken), own)
        yield from own


@dataclass(frozen=True, kw_only=True)
class Lenient(Exact):
    """Takes a share of the wrong answers for right ones."""

    accepts: float = 0.0

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in super().verify(rollouts, roles=roles):
            chance = hashlib.sha256(f"{rollout.problem_id}/{rollout.completion}".encode()).digest()[0] / 256
            lenient = rollout.outcome == "wrong" and chance < self.accepts
            yield replace(rollout, outcome="correct", reward=1.0) if lenient else rollout


@dataclass(frozen=True, kw_only=True)
class Fancies(Exact):
    """Takes answers for right that end as it likes, and no others."""

    ending: str = "9"

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in super().verify(rollouts, roles=roles):
            liked = (rollout.answer or "").endswith(self.ending)
            yield replace(rollout, outcome="correct" if liked else "wrong", reward=float(liked))
