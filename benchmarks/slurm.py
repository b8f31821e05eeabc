"""How long after a SLURM job's work the driver knows, and how often it asks the scheduler: ratchet and submitit on one cluster.

    infra/slurm/cluster.sh up --state /tmp/bench && export SLURM_CONF=/tmp/bench/slurm.conf    # or a cluster of your own
    python -m benchmarks.slurm [--seconds 1 40] [--array 50] [--repeats 3] [--under FOLDER]

A job works for so many seconds and writes the time into a file as its last act. The delay is from then until `Job.result()` returns,
or until our launcher says that the stage is published: for us that includes flushing, hashing and publishing what the job made. An
array's is from the last of its jobs. Each repeat works a fraction of a second longer than the one before, so that the delay is no
accident of when one looks. The scheduler's commands are counted as the driver starts them, by going through a counting link
on the PATH; submitting is one of them.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import HOUSE, disk, machine
from ratchet.artifacts import Manifest
from ratchet.errors import StageFailed
from ratchet.flows.job import job_of
from ratchet.infra.crew import Crew
from ratchet.infra.executors import Executor, JobRecord
from ratchet.infra.launch import Launcher
from ratchet.infra.runs import make_root
from ratchet.infra.store import LocalStore
from ratchet.records import Problem
from ratchet.stages import Stage

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")


def work(seconds: float, stamps: str, index: int) -> int:
    """What a job does."""
    time.sleep(seconds)
    Path(stamps, str(index)).write_text(str(time.time()))
    return index


@dataclass(frozen=True, kw_only=True)
class Work:
    """The same as a stage of ours."""

    seconds: float
    stamps: str
    index: int

    def propose(self) -> Iterator[Problem]:
        yield Problem(id=str(work(self.seconds, self.stamps, self.index)), prompt="")


@dataclass
class Clock:
    """A watch that notes when it was told what."""

    published_at: dict[str, float] = field(default_factory=dict)

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None:
        self.published_at.setdefault(stage.identity, time.time())

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None: ...

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None: ...

    def seen(self, stage: Stage, words: str) -> None: ...

    def lost(self, stage: Stage, number: int, words: str) -> None: ...

    def waiting(self, stage: Stage) -> None: ...


Way = Callable[[Path, float, int], list[float]]
"""In an empty folder, jobs of so many seconds, so many of them in one array: when the driver knew of each."""


def ours(executor: Callable[[], Executor]) -> Way:
    def run(folder: Path, seconds: float, count: int) -> list[float]:
        store = LocalStore(state=make_root(folder / "root"))
        # By its name in the package: as `__main__` a job could not import it.
        from benchmarks.slurm import Work as Part

        stages = [Stage(verb="propose", component=Part(seconds=seconds, stamps=str(folder), index=i), inputs={}, ordinal=i) for i in range(count)]
        clock = Clock()
        with Crew(executor()) as crew:
            Launcher(store=store, executor=crew, job=lambda identity, n: job_of(store, identity, n), watch=clock).make(stages)
        return [clock.published_at[stage.identity] for stage in stages]

    return run


def submitits(folder: Path, seconds: float, count: int) -> list[float]:
    """submitit's executor and its own `.result()`, job after job as its README has it."""
    import submitit

    from benchmarks.slurm import work as part

    executor = submitit.SlurmExecutor(folder=folder / "log", python=sys.executable)
    executor.update_parameters(time=60, cpus_per_task=1)
    indices = list(range(count))
    if count == 1:
        jobs = [executor.submit(part, seconds, str(folder), 0)]
    else:
        executor.update_parameters(array_parallelism=256)
        jobs = executor.map_array(part, [seconds] * count, [str(folder)] * count, indices)
    known = []
    for job in jobs:
        job.result()
        known.append(time.time())
    return known


@contextmanager
def counted(folder: Path) -> Iterator[Callable[[], Counter[str]]]:
    """Count the scheduler's commands that this process starts; asked, says how many there were since it was last asked."""
    before, log = os.environ["PATH"], folder / "calls"
    links = folder / "bin"
    links.mkdir()
    for name in COMMANDS:
        link = links / name
        # A job's PATH has the links too; those calls are not the driver's.
        link.write_text(f'#!/bin/sh\n[ -n "$SLURM_JOB_ID" ] || echo {name} >> {log}\nexec {shutil.which(name)} "$@"\n')
        link.chmod(0o755)

    def calls() -> Counter[str]:
        found = Counter(log.read_text().split()) if log.exists() else Counter[str]()
        log.unlink(missing_ok=True)
        return found

    os.environ["PATH"] = f"{links}{os.pathsep}{before}"
    try:
        yield calls
    finally:
        os.environ["PATH"] = before


@dataclass(frozen=True)
class Measured:
    """What one submission showed."""

    delay: float
    """Seconds from the last job's last act until the driver knew of all."""
    whole: float
    """Seconds from the submission until then."""
    calls: Counter[str]


def measure(way: Way, under: Path, seconds: float, count: int, calls: Callable[[], Counter[str]]) -> Measured:
    folder = under / f"{time.time_ns()}"
    folder.mkdir()
    calls()
    began = time.time()
    known = way(folder, seconds, count)
    ended = [float((folder / str(index)).read_text()) for index in range(count)]
    return Measured(max(known) - max(ended), max(known) - began, calls())


def on_slurm() -> Executor:
    from ratchet.infra.slurm_executor import Slurm

    return Slurm(resources={"default": {"cpus_per_task": 1, "timeout_min": 60}})


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 40], help="how long single jobs work")
    parser.add_argument("--array", type=int, default=50, help="how many jobs of no work stand in an array")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--under", type=Path, help="a folder that the nodes see too (default: the temporary folder)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None, ways: dict[str, Way] | None = None) -> dict[tuple[str, str], Measured]:
    """Measure and print; returns the medians by way and case."""
    given = options(words)
    if ways is None and not shutil.which("sbatch"):
        sys.exit("there is no `sbatch` here\n  next: infra/slurm/cluster.sh up --state FOLDER, and export SLURM_CONF=FOLDER/slurm.conf")
    ways = ways or {"ratchet": ours(on_slurm), "submitit": submitits}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HOUSE), os.environ.get("PYTHONPATH", "")]))
    cases = {f"1 job of {seconds:g} s": (seconds, 1) for seconds in given.seconds} | {f"{given.array} jobs of 0 s": (0.0, given.array)}
    medians = {}
    with disk(given.under) as folder, counted(folder) as calls:
        print(f"{machine()}; median of {given.repeats} (calls: mean)")
        print(f"{'':20}{'':12}{'known after, s':>15}{'whole, s':>10}{'calls':>8}{'a job':>8}  which")
        for case, (seconds, count) in cases.items():
            found: dict[str, list[Measured]] = {name: [] for name in ways}
            for repeat in range(given.repeats):
                for name, way in ways.items():
                    found[name].append(measure(way, folder, seconds + repeat / given.repeats, count, calls))
            for name, all_of in found.items():
                asked = sum((one.calls for one in all_of), Counter[str]())
                middle = Measured(statistics.median(m.delay for m in all_of), statistics.median(m.whole for m in all_of), asked)
                medians[name, case] = middle
                each = asked.total() / given.repeats
                which = ", ".join(f"{number / given.repeats:g} {command}" for command, number in sorted(asked.items()))
                print(f"{case:20}{name:12}{middle.delay:15.2f}{middle.whole:10.2f}{each:8.1f}{each / count:8.2f}  {which}")
    return medians


if __name__ == "__main__":
    main()
