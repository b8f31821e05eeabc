"""One allocation for a whole round: the queue is waited for once, and the round's stages run as steps in it.

The driver puts a ticket for every job into a folder; a worker, which is the one SLURM job that the scheduler sees, runs each as a step
(`srun`) as soon as the allocation has room. A ticket's file says by its ending where it stands, and changes it by a rename:

    <name>-<index>.held → .ready → .running → .done

The driver shows that it is there by touching `driver`. A worker that has nothing to do and has not seen it for `IDLE_S` gives the
allocation back, so none is left behind by a driver that died; its steps are finished and published first.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from ratchet.identity import canonical, digest
from ratchet.infra.executors import Ending, Job, JobRecord, Look, exit_words
from ratchet.infra.scheduler import outlived, unheard
from ratchet.infra.slurm_executor import Slurm
from ratchet.infra.store import write_atomic
from ratchet.interruption import TRY_AGAIN

IDLE_S = 60.0
"""How long a worker without work waits for a driver that shows no sign of life."""

CLOSED, ALIVE, RECORD, LIFE = "closed", "driver", "job.json", "life"


@dataclass
class _Open:
    """The allocation of the round that is under way."""

    round: int | None = None
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Runs the stages of a round as steps of one SLURM job."""

    kind: ClassVar[str] = "allocation"
    outlives_machine: ClassVar[bool] = True
    slurm: Slurm
    """Its `resources.default` are the allocation's, those of a verb its steps'."""
    owner: str = ""
    """The run: a driver that comes back goes on with the allocation that the one before it opened."""
    _open: _Open = field(default_factory=_Open, compare=False, repr=False)

    @property
    def slots(self) -> int:
        return self.slurm.slots

    @property
    def attempts(self) -> int:
        return self.slurm.attempts

    @property
    def grace_s(self) -> float:
        return self.slurm.grace_s

    @property
    def cpus_per_task(self) -> int:
        return int(self.slurm.resources_of("train")["cpus_per_task"])

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        folder, record = self._of(jobs[0])
        tickets = [folder / f"{name}-{index}" for index in range(len(jobs))]
        for job, ticket in zip(jobs, tickets, strict=True):
            asked = self.slurm.resources_of(job.verb)
            gpus = any(asked.get(key) for key in ("gpus_per_node", "gpus_per_task", "gres"))
            step = {"arguments": job.arguments, "log": str(job.log), "cpus": int(asked["cpus_per_task"]), "gpus": gpus}
            write_atomic(ticket.with_suffix(".held"), canonical(step))
        return [{**record, "ticket": str(ticket)} for ticket in tickets]

    def _of(self, job: Job) -> tuple[Path, JobRecord]:
        """The allocation for the job's round: the one that is open, be it by a driver before this one, or a new one."""
        if self._open.folder is not None and self._open.round != job.round:
            self.close()
        place = job.state / "allocations" / digest([self.owner, job.round])
        tries = sorted(place.glob("[0-9]*"), key=lambda folder: int(folder.name))
        if tries and (record := self._usable(tries[-1])):
            folder = tries[-1]
        else:
            folder = place / str(len(tries) + 1)
            record = self._begin(job, folder)
        self._open.round, self._open.folder = job.round, folder
        (folder / ALIVE).touch()
        return folder, record

    def _usable(self, folder: Path) -> JobRecord | None:
        """The allocation's record, if it is still there to take tickets."""
        if (folder / CLOSED).exists() or not (folder / RECORD).exists():
            return None
        record: JobRecord = json.loads((folder / RECORD).read_text())
        return None if self.slurm.probe([record])[0].state == "over" else record

    def _begin(self, job: Job, folder: Path) -> JobRecord:
        """Submit a worker. Should this driver die before its id is durable, the worker finds no driver and ends by itself."""
        folder.mkdir(parents=True)
        (folder / ALIVE).touch()
        worker = replace(job, verb="", arguments=("ratchet.infra.allocation", str(folder)), log=folder / "log")
        record = self.slurm.submit_worker(worker, "ratchet-round-" + digest([str(folder)])[:20])
        write_atomic(folder / RECORD, canonical(record))
        return record

    def close(self) -> None:
        """Give the open allocation back as soon as its steps are over."""
        if self._open.folder is not None:
            (self._open.folder / CLOSED).touch()

    def find(self, name: str, index: int) -> JobRecord | None:
        return None  # a ticket that nobody recorded is still held, so its step never begins; its allocation ends by itself

    def release(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            ticket = Path(record["ticket"])
            with suppress(FileNotFoundError):
                ticket.with_suffix(".held").rename(ticket.with_suffix(".ready"))

    def cancel(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            Path(record["ticket"]).with_suffix(".cancelled").touch()
            (Path(record["ticket"]).parent / CLOSED).touch()

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        for folder in {Path(record["ticket"]).parent for record in records}:
            with suppress(FileNotFoundError):
                (folder / ALIVE).touch()
        looks = self.slurm.probe(records)
        return [self._judge(Path(record["ticket"]), look) for record, look in zip(records, looks, strict=True)]

    def _judge(self, ticket: Path, look: Look) -> Look:
        if ticket.with_suffix(".done").exists():
            return Look(state="over", words="its step is over")
        if look.state in ("over", "unknown"):
            return look
        if ticket.with_suffix(".held").exists():
            return Look(state="held", words=look.words)
        return Look(state="running", words=look.words, begun=look.begun)

    def verdict(self, record: JobRecord) -> Ending:
        try:
            code = json.loads(Path(record["ticket"]).with_suffix(".done").read_text())["code"]
        except FileNotFoundError:  # its allocation ended first
            ending = self.slurm.verdict(record)
            return replace(ending, lost=not ending.words.startswith("CANCELLED"))
        # USR2: before it could listen. 0, although nothing is published: `srun` says so of a node that it lost.
        lost = code in (0, TRY_AGAIN, -signal.SIGUSR2)
        return Ending(words="CANCELLED" if code is None else exit_words(code), lost=lost)


@dataclass
class Worker:
    """The allocation's side: runs tickets as steps until nothing is to be done."""

    folder: Path
    cpus: int
    steps: "dict[Path, subprocess.Popen[bytes]]" = field(default_factory=dict)
    leaving: bool = False
    life: str = field(default_factory=lambda: uuid.uuid4().hex)

    def work(self) -> int:
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._warned)
        write_atomic(self.folder / LIFE, self.life.encode())
        for left in self.folder.glob("*.running"):  # of a former life of this job, which was requeued
            left.rename(left.with_suffix(".ready"))
        idle = time.monotonic()
        while self._is_last():
            self._reap()
            self._end_cancelled()
            if not self.leaving:
                self._begin()
            if self.steps:
                idle = time.monotonic()
            elif self.leaving or self._is_over(time.monotonic() - idle):
                return 0
            time.sleep(0.2)
        for step in self.steps.values():
            step.kill()
        return 0

    def _is_last(self) -> bool:
        """Whether this job was not begun again elsewhere, as one is whose node is cut off: the tickets are that life's then."""
        try:
            return (self.folder / LIFE).read_text() == self.life
        except OSError:  # deleted with its run, or on a server that is away: nothing says so
            return True

    def _warned(self, number: int, frame: object) -> None:
        """The allocation ends soon: its steps are asked to stop at a safe point, and no other is begun."""
        self.leaving = True
        (self.folder / CLOSED).touch()
        for step in self.steps.values():
            step.send_signal(signal.SIGUSR2)  # srun hands it on to its task

    def _is_over(self, idle_s: float) -> bool:
        closed = (self.folder / CLOSED).exists() or not self.folder.exists()  # deleted with its run
        return closed or (idle_s > IDLE_S and not self._driver_lives())

    def _driver_lives(self) -> bool:
        # Ages by one clock: the filesystem's, which stamps both files.
        probe = self.folder / "worker"
        probe.touch()
        return probe.stat().st_mtime - (self.folder / ALIVE).stat().st_mtime < IDLE_S

    def _begin(self) -> None:
        for ready in sorted(self.folder.glob("*.ready")):
            step = json.loads(ready.read_text())
            taken = [json.loads(ticket.read_text()) for ticket in self.steps]
            if taken and (sum(one["cpus"] for one in taken) + step["cpus"] > self.cpus or (step["gpus"] and any(one["gpus"] for one in taken))):
                return  # no room; a step that needs GPUs has all of the allocation's
            running = ready.with_suffix(".running")
            ready.rename(running)
            srun = [
                "srun",
                "--ntasks=1",
                "--nodes=1",
                "--overlap",
                f"--cpus-per-task={step['cpus']}",
                f"--output={step['log']}",
                "--open-mode=append",
            ]
            pinned = [f"{name}={step['cpus']}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
            with running.with_suffix(".said").open("wb") as said:
                self.steps[running] = subprocess.Popen([*srun, "env", *pinned, sys.executable, "-P", "-m", *step["arguments"]], stderr=said)

    def _reap(self) -> None:
        for running, step in list(self.steps.items()):
            code = step.poll()
            if code is not None:
                if self._is_undone(running, code):
                    running.rename(running.with_suffix(".ready"))
                else:
                    cancelled = running.with_suffix(".cancelled").exists()
                    word = {"code": None if cancelled else 128 - code if code > 128 else code}  # a shell's 137 is -9 to us
                    write_atomic(running.with_suffix(".done"), canonical(word))
                    running.unlink()
                del self.steps[running]

    def _is_undone(self, running: Path, code: int) -> bool:
        """Whether a step's end says nothing about its work: it could not begin, or the scheduler ended it with its allocation."""
        said = running.with_suffix(".said").read_text(errors="replace")
        sys.stderr.write(said)
        self.leaving |= outlived(said)
        ended = self.leaving and code in (-signal.SIGTERM, 128 + signal.SIGTERM)
        return code != 0 and not running.with_suffix(".cancelled").exists() and bool(unheard(said) or outlived(said) or ended)

    def _end_cancelled(self) -> None:
        for running, step in self.steps.items():
            if running.with_suffix(".cancelled").exists():
                step.terminate()


def main(arguments: Sequence[str]) -> int:
    """The worker, as the allocation's batch step."""
    (folder,) = arguments
    return Worker(Path(folder), int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))).work()
