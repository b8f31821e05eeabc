"""A stage's claim: its lock, the spec of the work, and what is known of every attempt at it.

claims/<identity>/
├── lock            held by the driver that works on the stage; the kernel frees it when that driver dies
├── run.lock        held by the job while it works: two attempts on one host never write at the same time
├── spec.json       what the job is to do
├── intent.json     the attempt that is about to be submitted, and under which name
├── job.json        the attempt under way: number, executor, job
├── scratch/        a trainer's checkpoints; survives attempts
└── attempts/<n>/   log, starts, progress.json, exit.json
"""

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.identity import canonical
from ratchet.infra.store import write_atomic

NEVER_RELEASED = "never released"
"""The last word of a job whose driver died before it let it go: nothing was done, so nothing failed."""

INTERRUPTED = "interrupted"
"""The last word of a job that stopped at a safe point because it was asked to; unless it is requeued, another goes on from there."""


@dataclass(frozen=True)
class Claim:
    """The folder of one stage's claim."""

    folder: Path
    flush: bool = True
    """Whether what a driver writes here must outlive a power failure: not if its jobs do not."""

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def attempt(self, number: int) -> Path:
        return self.folder / "attempts" / str(number)

    def attempts(self) -> int:
        """How many attempts there have been."""
        with suppress(FileNotFoundError):
            return max((int(entry.name) for entry in os.scandir(self.folder / "attempts")), default=0)
        return 0

    def job(self) -> dict[str, Any] | None:
        """The attempt that was last submitted, if one is recorded."""
        return self._read("job.json")

    def record(self, job: Mapping[str, Any]) -> None:
        """Make the attempt under way durable."""
        write_atomic(self.folder / "job.json", canonical(job), flush=self.flush)

        (self.folder / "intent.json").unlink(missing_ok=True)

    def intent(self) -> dict[str, Any] | None:
        """The attempt that was about to be submitted when its driver died."""
        return self._read("intent.json")

    def intend(self, intent: Mapping[str, Any]) -> None:
        """Say durably what is about to be submitted, and under which name."""
        write_atomic(self.folder / "intent.json", canonical(intent), flush=self.flush)

    def begun(self) -> bool:
        """Whether a job of it may be out there."""
        return (self.folder / "job.json").exists() or (self.folder / "intent.json").exists()

    def forget(self) -> None:
        """The attempt is proven over."""
        for name in ("intent.json", "job.json"):
            (self.folder / name).unlink(missing_ok=True)

    def spec(self) -> dict[str, Any]:
        """What the job is to do."""
        found: dict[str, Any] = json.loads((self.folder / "spec.json").read_text())
        return found

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        write_atomic(self.folder / "spec.json", canonical(spec), flush=self.flush)

    def exit(self, number: int) -> dict[str, Any] | None:
        """How an attempt ended, in its own words; None if it could not say."""
        return self._read(f"attempts/{number}/exit.json")

    def progress(self, number: int) -> dict[str, Any] | None:
        return self._read(f"attempts/{number}/progress.json")

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text())
        except (FileNotFoundError, ValueError):  # the latter: not flushed, and torn by a power failure, which its job did not outlive
            return None
        return found


class Lock:
    """An exclusive lock on a file, freed by the kernel when its holder dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; True if it is ours now."""
        if self._descriptor is not None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on a file; asks no more than to read it, so that it answers about other people's files too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
