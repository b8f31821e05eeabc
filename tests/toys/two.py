"""A driver of the smallest kind: makes two stages by jobs in processes of their own, under a root."""

import os
from collections.abc import Sequence
from pathlib import Path

from ratchet.artifacts import Manifest
from ratchet.errors import StageFailed
from ratchet.flows.job import job_of
from ratchet.infra.crew import Crew
from ratchet.infra.executors import Executor, JobRecord, Local
from ratchet.infra.launch import Launcher
from ratchet.infra.runs import make_root
from ratchet.infra.store import LocalStore
from ratchet.stages import Stage
from tests.toys.parts import Sums

TWO = [Stage(verb="propose", component=Sums(split=split), inputs={}, ordinal=n) for n, split in enumerate(("train", "dev"))]


class Told:
    """A watch that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None:
        self.events.append(("attached" if attached else "attempt", stage.title, number))

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None:
        self.events.append(("reused" if reused else "published", stage.title))

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None:
        self.events.append(("failed", stage.title, number, error.state))

    def seen(self, stage: Stage, words: str) -> None:
        if words:
            self.events.append(("seen", stage.title, words))

    def lost(self, stage: Stage, number: int, words: str) -> None:
        self.events.append(("lost", stage.title, number, words))

    def waiting(self, stage: Stage) -> None:
        self.events.append(("waiting", stage.title))


def launcher(root: Path, executor: Executor) -> Launcher:
    store = LocalStore(state=make_root(root))
    return Launcher(store=store, executor=Crew(executor), job=lambda identity, n: job_of(store, identity, n), watch=Told())


def main(words: Sequence[str]) -> int:
    made = launcher(Path(os.environ["RATCHET_ROOT"]), Local())
    made.make(TWO)
    assert isinstance(made.watch, Told)
    for event in made.watch.events:
        print(*event)
    return 0
