"""Where a stage runs: in this process, in a process of its own that outlives its driver, or (`slurm_executor.py`) on a cluster.

An executor is handed command lines and knows nothing of what they do. Its jobs are started *held*, made durable by the launcher, and
only then released, so that a death at any moment leaves no job that nobody knows (`launch.py`).
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from ratchet.errors import InputError

JobRecord = dict[str, Any]
State = Literal["held", "running", "over", "unknown"]
"""`running`: it may yet do something, be it queued, suspended or at work. `over`: it is proven that it will do nothing any more.
`unknown`: who could say does not answer."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a stage, as an executor sees it."""

    identity: str
    attempt: int
    verb: str = ""
    round: int = 0
    arguments: tuple[str, ...]
    """What follows `python -P -m`."""
    call: Callable[[], None]
    """The same work, done in this process."""
    log: Path
    state: Path
    """The root's state folder, for what the executor itself must keep."""
    modules: tuple[str, ...] = ("ratchet",)
    """The top-level modules whose code the job runs."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What an executor sees of a job."""

    state: State
    words: str = ""
    """The same for people: `PENDING (Resources)`."""
    begun: int = 1
    """How often it was begun: a job that was requeued twice, three times."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a job that is over ended, as far as can be known."""

    words: str
    lost: bool = False
    """Preempted, out of walltime, gone with its node: that says nothing about the stage, which is begun again."""
    log: Path | None = None
    """Where the executor itself printed, if it did."""


class Executor(Protocol):
    """The hands that run jobs."""

    @property
    def kind(self) -> str:
        """What its jobs' records say of who started them."""
        ...

    @property
    def outlives_machine(self) -> bool:
        """Whether its jobs may be at work while the driver's machine is without power: then what is known of them must be flushed."""
        ...

    @property
    def slots(self) -> int:
        """How many jobs it has at a time; the launcher hands it no more."""
        ...

    @property
    def attempts(self) -> int:
        """How often a stage whose jobs are lost is begun before it counts as failed."""
        ...

    @property
    def grace_s(self) -> float:
        """How long after a job's end its result may still become visible (shared filesystems)."""
        ...

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        """Start jobs of one verb held, under a name that is theirs alone; what is returned is enough to find them again."""
        ...

    def find(self, name: str, index: int) -> JobRecord | None:
        """The job that was submitted under a name, at that place in its batch, if it lives and was released; one still held is ended."""
        ...

    def release(self, records: Sequence[JobRecord]) -> None:
        """Let held jobs go."""
        ...

    def cancel(self, records: Sequence[JobRecord]) -> None:
        """End jobs."""
        ...

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        """What became of jobs, of this driver or one before."""
        ...

    def verdict(self, record: JobRecord) -> Ending:
        """How a job that is over ended: `exit code 1`, `killed by signal 9`."""
        ...


def start_time(pid: int) -> str | None:
    """When a living process started, in clock ticks since boot; None if there is none. With the boot id it is never reused."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] == "Z" else f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()[:8]}:{stat[19]}"


def this_process() -> JobRecord:
    """This process, so that another can tell whether it still lives."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "start": start_time(os.getpid())}


GRACE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Runs each stage in the driver's own process, one after the other; dies with it."""

    cpus_per_task: int = 1
    _held: dict[tuple[str, int], Job] = field(default_factory=dict[tuple[str, int], Job], compare=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(cpus_per_task=self.cpus_per_task)

    kind: ClassVar[str] = "inline"
    outlives_machine: ClassVar[bool] = False
    slots: ClassVar[int] = 1
    attempts: ClassVar[int] = 1
    grace_s: ClassVar[float] = GRACE_S

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        self._held.update({(job.identity, job.attempt): job for job in jobs})
        return [{**this_process(), "identity": job.identity, "attempt": job.attempt} for job in jobs]

    def find(self, name: str, index: int) -> JobRecord | None:
        return None  # it died with its driver

    def release(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            self._held.pop((record["identity"], record["attempt"])).call()

    def cancel(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            if start_time(record["pid"]) == record["start"] and record["pid"] != os.getpid():
                os.kill(record["pid"], signal.SIGTERM)

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        # Work in a driver's process ends with `release`, and the launcher holds the stage's lock: no other driver lives.
        return [Look(state="over") for _ in records]

    def verdict(self, record: JobRecord) -> Ending:
        return Ending(words="its driver died" if start_time(record["pid"]) != record["start"] else "ended without a word")


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs each stage in a process of its own on this machine; the process outlives its driver and is attached to again.

    Held means: the process waits for one byte on its standard input. If the driver dies first, the pipe closes and the process
    leaves without having done anything.
    """

    kind: ClassVar[str] = "local"
    outlives_machine: ClassVar[bool] = False
    attempts: ClassVar[int] = 1
    grace_s: ClassVar[float] = GRACE_S
    slots: int = 1
    cpus_per_task: int = 1
    _children: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict[int, "subprocess.Popen[bytes]"], compare=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(slots=self.slots, cpus_per_task=self.cpus_per_task)

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        return [self._start(job) for job in jobs]

    def _start(self, job: Job) -> JobRecord:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", *job.arguments, "--held"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(self.cpus_per_task),
            )
        self._children[child.pid] = child
        return {"host": socket.gethostname(), "pid": child.pid, "start": start_time(child.pid)}

    def find(self, name: str, index: int) -> JobRecord | None:
        return None  # the pipe of a job that nobody recorded closed with its driver, so it left

    def release(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            child = self._children.get(record["pid"])
            if child is not None and child.stdin is not None and not child.stdin.closed:
                with suppress(BrokenPipeError):  # it is over already; the next probe says so
                    child.stdin.write(b"go\n")
                    child.stdin.close()

    def cancel(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            if self._probe(record) == "running":
                with suppress(ProcessLookupError):
                    os.killpg(record["pid"], signal.SIGTERM)

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        return [Look(state=self._probe(record)) for record in records]

    def _probe(self, record: JobRecord) -> State:
        if record.get("host", here := socket.gethostname()) != here:
            what = f"a job of this stage was started on {record.get('host')}, and from here nobody can tell whether it still runs"
            raise InputError(what, got=f"process {record.get('pid')}", next=f"give the command on {record.get('host')}")
        child = self._children.get(record["pid"])
        if child is not None:
            return "running" if child.poll() is None else "over"
        return "running" if start_time(record["pid"]) == record["start"] else "over"

    def verdict(self, record: JobRecord) -> Ending:
        child = self._children.get(record["pid"])
        code = child.poll() if child is not None else None
        return Ending(words="its process is gone" if code is None else exit_words(code))


def exit_words(code: int) -> str:
    """A process's exit code, negative for a signal, in words."""
    return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "") if code < 0 else f"exit code {code}"


def at_least_one(**fields: int) -> None:
    """Refuse an executor that could never run a job."""
    for name, value in fields.items():
        if value < 1:
            raise InputError(f"{name} has a wrong value", got=value, allowed="1 or more")


def environment(cpus: int, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A job's environment: the driver's, with the thread count pinned, since the last bits of a sum depend on it."""
    pinned = {name: str(cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {**base, **pinned, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
