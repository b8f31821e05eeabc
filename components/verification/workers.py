"""Work done in processes that can be killed: a request that takes too long or too much memory costs its worker, never the caller.

A worker is a Python process of its own (no fork, so nothing is inherited from a caller with threads), started once and asked many
times. It dies with its caller: it reads the end of its pipe when it is idle, and on Linux the kernel kills it when it is not. Time is
wall-clock time from the request on, memory is what the process has resident (Linux only; elsewhere it is not limited).

Not for callers that spawn in one thread and let that thread end: the kernel then takes the workers' parent for dead.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from ratchet.errors import StageFailed

Lost = Literal["timeout", "crashed"]
Waiting = deque[tuple[int, Any]]

START_S = 120.0
"""A worker that takes longer to import its vendors is taken for broken."""
LOOK_S = 0.05
"""How often a busy worker's time and memory are looked at."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answered, or how it was lost over the request."""

    value: Any = None
    lost: Lost | None = None


class Worker:
    """One process; `ready` once it has said so, `task` while it has a request."""

    def __init__(self, module: str) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self.pipe, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # the order of sets must not depend on the process
        )
        theirs.close()
        self.ready = False
        self.task: int | None = None
        self.since = time.monotonic()
        self.own_mb = 0.0

    def ask(self, task: int, request: Any) -> None:
        self.task, self.since = task, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which is seen when it is listened to
            self.pipe.send_bytes(json.dumps(request).encode())

    def resident_mb(self) -> float:
        """Memory in use, 0 where it cannot be known."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def end(self) -> str:
        """Kill it; return the end of what it complained of."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        self.errors.seek(max(0, self.errors.seek(0, os.SEEK_END) - 2000))
        said = self.errors.read().decode(errors="replace")
        self.errors.close()
        return said


@dataclass(kw_only=True)
class Workers:
    """Up to `count` workers that run a module; use it in a `with`."""

    module: str
    count: int
    limit_s: float
    memory_mb: int | None
    _alive: list[Worker] = field(default_factory=list[Worker])

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._alive:
            self._alive.pop().end()

    def replies(self, requests: Sequence[Any]) -> Iterator[Reply]:
        """The replies, in the order of the requests, each as soon as those before it are there."""
        waiting: Waiting = deque(enumerate(requests))
        done: dict[int, Reply] = {}
        for task in range(len(requests)):
            while task not in done:
                self._hand_out(waiting)
                self._listen(done)
            yield done.pop(task)

    def _hand_out(self, waiting: Waiting) -> None:
        busy = sum(worker.task is not None for worker in self._alive)
        while len(self._alive) < min(self.count, busy + len(waiting)):
            self._alive.append(Worker(self.module))
        for worker in self._alive:
            if waiting and worker.ready and worker.task is None:
                worker.ask(*waiting.popleft())

    def _listen(self, done: dict[int, Reply]) -> None:
        heard = wait([worker.pipe for worker in self._alive], timeout=LOOK_S)
        for worker in list(self._alive):
            lost = self._hear(worker, done) if worker.pipe in heard else self._overdrawn(worker)
            if lost:
                self._let_go(worker, lost, done)
            elif worker.task is None and self._bloated(worker):
                self._alive.remove(worker)
                worker.end()

    def _hear(self, worker: Worker, done: dict[int, Reply]) -> Lost | None:
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            return "crashed"
        if worker.task is not None:
            done[worker.task] = Reply(value=json.loads(message))
        else:
            worker.ready, worker.own_mb = True, worker.resident_mb()
        worker.task = None
        return None

    def _bloated(self, worker: Worker) -> bool:
        """Whether its vendors' caches have grown so far that the next request might be blamed for them."""
        return self.memory_mb is not None and worker.ready and worker.resident_mb() > max(worker.own_mb + 20, (worker.own_mb + self.memory_mb) / 2)

    def _overdrawn(self, worker: Worker) -> Lost | None:
        busy_s = time.monotonic() - worker.since
        if not worker.ready:
            return "timeout" if busy_s > START_S else None
        if worker.task is None or busy_s < LOOK_S:
            return None
        if busy_s > self.limit_s:
            return "timeout"
        return "crashed" if self.memory_mb is not None and worker.resident_mb() > self.memory_mb else None

    def _let_go(self, worker: Worker, lost: Lost, done: dict[int, Reply]) -> None:
        self._alive.remove(worker)
        said = worker.end()
        if not worker.ready:
            raise StageFailed("verify", state=lost, reason=f"a worker that runs {self.module} did not start", log_tail=said)
        if worker.task is not None:
            done[worker.task] = Reply(lost=lost)


def connection_to_caller(arguments: Sequence[str]) -> Connection:
    """In a worker: its pipe, having first made sure that it does not outlive its caller."""
    pipe, caller = int(arguments[0]), int(arguments[1])
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != caller:
        sys.exit(0)
    return Connection(pipe)


def requests_on(connection: Connection) -> Iterator[Any]:
    """In a worker: say that it is ready, then give the requests one by one until the caller is gone."""
    connection.send_bytes(b"null")
    with suppress(EOFError, ConnectionResetError):
        while True:
            yield json.loads(connection.recv_bytes())
