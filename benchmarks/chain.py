"""A recipe of stages that do nothing, each after the one before: what is left is the price of a stage.

With `RATCHET_BENCH_STAMPS` naming a file, every stage writes the time into it as it does its nothing. The other tools' steps do the same
(`others.py`), so that what lies between two lines is what a tool does between two steps, whichever tool.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.artifacts import Artifact
from ratchet.flows.loop import Stages, recipe
from ratchet.protocols import Metrics
from ratchet.records import Problem
from ratchet.rounds import Round, RoundState

STAMPS = "RATCHET_BENCH_STAMPS"


def stamp() -> None:
    """Add the time of now as a line, and the seconds of CPU that this process has used."""
    with open(os.environ.get(STAMPS, os.devnull), "a") as lines:  # noqa: PTH123 - as the other tools' steps have it
        lines.write(f"{time.time()} {time.process_time()}\n")


@dataclass(frozen=True, kw_only=True)
class One:
    """A task of one problem, as large as is asked."""

    split: str = "train"
    kib: int = 0

    def propose(self) -> Iterator[Problem]:
        yield Problem(id=self.split, prompt="x" * 1024 * self.kib)


@dataclass(frozen=True, kw_only=True)
class Nobody:
    """A policy that holds nothing."""

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        return {}


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Keeps everything: the stage that does nothing."""

    length: int = 20
    """How many of it stand in a row in a round."""
    step: int = 0
    """Which one it is."""

    def select(self, rollouts: Sequence[Any]) -> Iterator[Any]:
        stamp()
        yield from rollouts


def nobody(do: Stages) -> RoundState:
    return RoundState(roles={"policy": do.create()})


def nothing(state: RoundState, do: Stages) -> Artifact:
    return do.propose(split="test")


@recipe(start=nobody, measure=nothing)
def chain(round: Round, do: Stages) -> RoundState:
    """Hand the problem through a row of stages, each of its own identity."""
    length = do.part("selection").length
    passed = round.problems
    for step in range(length):
        passed = do.select(passed, step=length * round.index + step)
    return round.advance(passed=passed)
