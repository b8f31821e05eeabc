"""One run, or sweep, under one schedule of deaths: the same command again until it is done, and a record of all that happened meanwhile."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.infra.executors import start_time
from ratchet.infra.ledger import results
from ratchet.infra.runs import runs_under
from tests.chaos import clock
from tests.chaos.site import Site
from tests.chaos.traces import Traces
from tests.chaos.watch import Watcher
from tests.toys.drive import TOYS, Die, Done, Going, Warm

NAME = "run"
SCIENCE = (
    "recipe=rest_em",
    "gates=standard",
    "budget.samples=100000",
    "evaluation.samples=0",
    "synthesis.rows_per_shard=6",
    "synthesis.seconds=0.08",
    "training.seconds=0.5",
)
ROUNDS = 6
"""At most. Each has eleven batches of jobs, some of them arrays; a second a batch if nothing disturbs it."""
LIMIT_S = 400.0
LIVES = 60
"""Drivers that a run takes at most; most deaths take one."""


Whole = Callable[[str | None], list[Any]]
"""From the axis of a sweep (None: a run) to what the command makes undisturbed."""


class Missed(Exception):
    """There was nothing left for a death to strike."""


class Endless(AssertionError):
    """A run does not end."""


@dataclass
class Strike:
    """A death that was dealt, and what is known of what it hit."""

    name: str
    codes: frozenset[int]
    """Exit codes that it may give a driver; 0 always may be."""
    begins: int
    """How many times more it may make each unit begin that it hit."""
    began: float
    ended: float = float("inf")
    victims: frozenset[str] | None = None
    """The units that it hit; None: any that had a living job meanwhile."""
    missed: bool = False


@dataclass
class Life:
    """A driver, from its start to its end."""

    began: float
    ended: float
    code: int
    err: str


@dataclass
class World:
    """A root on the cluster's disk, and its run or the runs of its sweep."""

    site: Site
    ratchet: Warm
    root: Path
    rounds: int = 1
    in_bucket: bool = False
    """Its store is in the site's bucket."""
    axis: str | None = None
    """What it sweeps over, as `KEY=VALUE,VALUE`; None: it is one run."""
    hold: bool = False
    """A round's stages are steps of one job, and not jobs of their own."""
    strikes: list[Strike] = field(default_factory=list[Strike])
    lives: list[Life] = field(default_factory=list[Life])
    log: list[str] = field(default_factory=list[str])
    done: bool = False
    """A driver ended with exit code 0."""

    def __post_init__(self) -> None:
        self._born = time.monotonic()
        self._driver: tuple[Going, float] | None = None
        self.beside = self.site.state / "beside" / self.root.name  # not on the disk that is filled
        self.beside.mkdir(parents=True)
        self.clocks({})
        self.python = self.beside / "python"
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{clock.__file__}" "$@"\n')
        self.python.chmod(0o755)
        self.traces = Traces(self.root, self.beside)
        self.watcher = Watcher(self.site, self.root)
        self.watcher.start()

    # The run

    @property
    def env(self) -> dict[str, str]:
        names = {"RATCHET_TEST_DRAWS": "draws", "RATCHET_TEST_FEAST": "feast", "RATCHET_TEST_CLOCKS": "clocks"}
        return {**self.site.environment, **{name: str(self.beside / file) for name, file in names.items()}}

    @property
    def words(self) -> tuple[str, ...]:
        where = ("executor=slurm", "executor.grace_s=3", f"executor.python={self.python}")
        if self.hold:
            where += ("executor.hold=true",)
        if self.in_bucket:
            where += self.site.store(self.root.name)
        return (*words(self.rounds, self.axis), *where)

    def say(self, words: str) -> None:
        self.log.append(f"{time.monotonic() - self._born:6.1f} s  {words}")

    def story(self) -> str:
        """All that happened, in its order."""
        return "\n".join(sorted([*self.log, *self.watcher.told(self._born)], key=lambda line: float(line.split()[0])))

    # The driver

    def command(self, die: Die | None = None) -> Going:
        return self.ratchet.start(*self.words, root=self.root, env=self.env, die=die, main="tests.chaos.clock.main")

    def start(self, die: Die | None = None) -> None:
        self._driver = self.command(die), time.monotonic()

    @property
    def pid(self) -> int | None:
        """The driver's process, if it lives."""
        return self._driver[0].pid if self._driver and start_time(self._driver[0].pid) else None

    def settle(self) -> None:
        """Write down how the driver ended, if it did."""
        if self._driver and self.pid is None:
            going, began = self._driver
            self._driver = None
            self.ended(going.wait(), began)

    def ended(self, done: Done, began: float) -> None:
        self.lives.append(Life(began, time.monotonic(), done.code, done.err))
        why = next((line for line in done.err.splitlines() if line.startswith("ratchet: ")), "")
        self.say(f"a driver ended with {done.code}  {why}")
        self.done = self.done or done.code == 0

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to the driver, if it lives, and see it gone."""
        if pid := self.pid:
            os.kill(pid, number)
            while self.pid:
                time.sleep(0.01)
        self.settle()

    def go(self, until: Callable[[], Any], *, restart: bool = True, pause: float = 0.02) -> None:
        """Keep the command going until something is so, or the run is done."""
        while not until():
            self.settle()
            if self.done:
                return
            if self._driver is None and restart:
                self.start()
            if time.monotonic() - self._born > LIMIT_S or len(self.lives) > LIVES:
                said = next((life.err for life in reversed(self.lives) if life.err), "")
                raise Endless(f"not done after {LIMIT_S:.0f} s or {LIVES} drivers; one of the last said: {said}")
            time.sleep(pause)

    def during(self, seconds: float) -> None:
        """Keep the command going for a while."""
        end = time.monotonic() + seconds
        self.go(lambda: time.monotonic() > end)

    def more(self) -> None:
        """One round more, since the command is done and its runs are not yet struck enough."""
        if self.rounds == ROUNDS:
            raise Endless(f"{ROUNDS} rounds are done, and {self.strikes[-1].name} struck nothing, or others have yet to strike")
        self.rounds += 1
        self.done = False
        self.say(f"there is round {self.rounds} to do")

    def finish(self) -> None:
        self.go(lambda: False)

    def end(self) -> None:
        """No driver and no watcher any more."""
        self.kill()
        self.watcher.stop()

    # What a death may want to know or do

    @contextmanager
    def strike(self, name: str, codes: Iterable[int], begins: int) -> Iterator[Strike]:
        strike = Strike(name, frozenset(codes), begins, time.monotonic())
        self.strikes.append(strike)
        self.say(f"strikes: {name}, at {self.traces.published()} artifacts of {len(runs_under(self.root))} runs")
        try:
            yield strike
        except Missed:
            strike.missed = True
            self.say(f"{name} found nothing left to strike")
        finally:
            strike.ended = time.monotonic()
            if strike.victims:
                self.say(f"{name} hit {', '.join(sorted(identity[:8] for identity in strike.victims))}")

    def doomed(self, die: Die) -> None:
        """A driver that dies at a certain instruction."""
        self.kill()
        if self.done:
            raise Missed
        self.start(die)
        self.go(lambda: self._driver is None, restart=False)
        if self.lives[-1].code != -signal.SIGKILL:
            raise Missed

    def others(self, count: int) -> None:
        """The same command, so many times more at once: all but one find the run held."""
        self.settle()
        going = [(self.command(), time.monotonic()) for _ in range(count + (self._driver is None))]
        going += [self._driver] if self._driver else []
        self._driver = None
        self.go(lambda: sum(start_time(other.pid) is not None for other, _ in going) <= 1, restart=False)
        alive = [entry for entry in going if start_time(entry[0].pid)]
        for other, began in [entry for entry in going if entry not in alive]:
            self.ended(other.wait(), began)
        self._driver = alive[0] if alive else None

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """A process that stands still."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def child(self, name: str) -> int:
        """A process that the driver started, as soon as there is one of that name."""
        found: list[int] = []

        def there() -> bool:
            found[:] = children(self.pid, name)
            return bool(found)

        self.go(there, pause=0.001)
        if not found:
            raise Missed
        return found[0]

    def job_at_work(self) -> tuple[str, set[str] | None, int]:
        """A job that has begun work of some length and has not ended it: its id, the units it is for (None: all that live), and a process of it."""
        self.go(lambda: next(self.traces.at_work(), None))
        found = next(self.traces.at_work(), None)
        if found is None:
            raise Missed
        id, identity, pid = found
        return id, None if self.hold else {identity}, pid

    def clocks(self, ahead: Mapping[str, float]) -> None:
        """Set the clocks of whoever starts from now on."""
        (self.beside / "clocks").write_text(json.dumps(ahead))

    def feast(self) -> Path:
        """The invitation to the next job that draws: its work shall not fit its memory. Gone when it was accepted."""
        path = self.beside / "feast"
        path.touch()
        return path


def children(pid: int | None, name: str) -> list[int]:
    """A process's children of a name."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if Path(f"/proc/{child}/comm").read_text().strip() == name]
    except (FileNotFoundError, ProcessLookupError):
        return []


def words(rounds: int, axis: str | None) -> tuple[str, ...]:
    """The words of a run, or of a sweep over an axis."""
    verb = ("sweep", axis) if axis else ("run",)
    return (*verb, *TOYS, *SCIENCE, f"rounds={rounds}", "--name", NAME, "--no-prefect")


def made(ratchet: Warm, root: Path, env: Mapping[str, str]) -> list[Any]:
    """What there is under a root, by round: every run's stages with their digests, and what `ratchet compare` reads of them as a whole."""
    rows = [(row[0], run.name, *row[1:]) for run in runs_under(root) for row in results(run.ledger)]
    done = ratchet("compare", NAME, "--json", root=root, env=env)
    assert 0 == done.code, f"the runs do not compare: {done.err}"
    return rows + [(row["round"], run["name"], row["metrics"], row["state"], row["cost"]["samples"]) for run in done.json() for row in run["rounds"]]


def undisturbed(ratchet: Warm, root: Path, axis: str | None) -> list[Any]:
    """What the command makes in one process that nothing disturbs."""
    done = ratchet(*words(ROUNDS, axis), root=root, env={"RATCHET_TEST_HASTE": "1"})
    assert 0 == done.code, done.err
    return made(ratchet, root, {})
