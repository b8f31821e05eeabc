"""Where a stage runs: in this process, or in a process of its own that outlives its driver.

An executor is handed a command line and knows nothing of what it does. Its jobs are started *held*, made durable by the launcher,
and only then released, so that a death at any moment leaves no job that nobody knows (`launch.py`).
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ratchet.errors import InputError

JobRecord = dict[str, Any]
State = Literal["held", "running", "over"]
"""`over`: it is proven that the job will do nothing any more."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at a stage, as an executor sees it."""

    identity: str
    attempt: int
    arguments: tuple[str, ...]
    """What follows `python -P -m`."""
    call: Callable[[], None]
    """The same work, done in this process."""
    log: Path


class Executor(Protocol):
    """The hands that run jobs."""

    @property
    def slots(self) -> int:
        """How many jobs it runs at a time; the launcher hands it no more."""
        ...

    def submit(self, job: Job) -> JobRecord:
        """Start a job held; what is returned must be enough to find it again from another process."""
        ...

    def release(self, record: JobRecord) -> None:
        """Let a held job go."""
        ...

    def probe(self, records: Sequence[JobRecord]) -> list[State]:
        """What became of jobs, of this driver or one before."""
        ...

    def verdict(self, record: JobRecord) -> str:
        """How a job that is over ended, as far as can be known: `exit code 1`, `killed by signal 9`."""
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


@dataclass(frozen=True, kw_only=True)
class Inline:
    """Runs each stage in the driver's own process, one after the other; dies with it."""

    cpus_per_task: int = 1
    _held: dict[tuple[str, int], Job] = field(default_factory=dict[tuple[str, int], Job], compare=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(cpus_per_task=self.cpus_per_task)

    @property
    def slots(self) -> int:
        return 1

    def submit(self, job: Job) -> JobRecord:
        self._held[job.identity, job.attempt] = job
        return {**this_process(), "identity": job.identity, "attempt": job.attempt}

    def release(self, record: JobRecord) -> None:
        self._held.pop((record["identity"], record["attempt"])).call()

    def probe(self, records: Sequence[JobRecord]) -> list[State]:
        # Work in a driver's process ends with `release`, and the launcher holds the stage's lock: no other driver lives.
        return ["over" for _ in records]

    def verdict(self, record: JobRecord) -> str:
        return "its driver died" if start_time(record["pid"]) != record["start"] else "ended without a word"


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs each stage in a process of its own on this machine; the process outlives its driver and is attached to again.

    Held means: the process waits for one byte on its standard input. If the driver dies first, the pipe closes and the process
    leaves without having done anything.
    """

    slots: int = 1
    cpus_per_task: int = 1
    _children: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict[int, "subprocess.Popen[bytes]"], compare=False, repr=False)

    def __post_init__(self) -> None:
        at_least_one(slots=self.slots, cpus_per_task=self.cpus_per_task)

    def submit(self, job: Job) -> JobRecord:
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

    def release(self, record: JobRecord) -> None:
        child = self._children.get(record["pid"])
        if child is not None and child.stdin is not None and not child.stdin.closed:
            try:
                child.stdin.write(b"go\n")
                child.stdin.close()
            except BrokenPipeError:
                pass  # it is over already; the next probe says so

    def probe(self, records: Sequence[JobRecord]) -> list[State]:
        return [self._probe(record) for record in records]

    def _probe(self, record: JobRecord) -> State:
        if record.get("host", here := socket.gethostname()) != here:
            what = f"a job of this stage was started on {record.get('host')}, and from here nobody can tell whether it still runs"
            raise InputError(what, got=f"process {record.get('pid')}", next=f"give the command on {record.get('host')}")
        child = self._children.get(record["pid"])
        if child is not None:
            return "running" if child.poll() is None else "over"
        return "running" if start_time(record["pid"]) == record["start"] else "over"

    def verdict(self, record: JobRecord) -> str:
        child = self._children.get(record["pid"])
        code = child.poll() if child is not None else None
        if code is None:
            return "its process is gone"
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
