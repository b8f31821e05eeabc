"""The one door to SLURM's commands: what the queue shows, what accounting remembers, release and cancel.

An answer of the scheduler proves something; silence proves nothing. `SchedulerAway` means that it did not answer, so the caller waits.
A job that a complete listing of the queue does not show is gone: SLURM forgets ended jobs after `MinJobAge` (300 s by default).
"""

import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ratchet.errors import Away, RatchetError

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States that a job does not leave by itself. Any other (SUSPENDED, REQUEUED, COMPLETING, …) is a job that may yet do something."""

LOST = {"BOOT_FAIL", "DEADLINE", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT", "GONE"}
"""Endings that say nothing about the stage itself: it is begun again."""

FIELDS = ("JobArrayID", "Name", "State", "Reason", "RestartCnt", "exit_code")


class SchedulerAway(Away):
    """The scheduler did not answer; nothing follows from that."""


class SchedulerRefuses(RatchetError):
    """The scheduler answered that it will not do what it was asked."""


@dataclass(frozen=True)
class Seen:
    """A job as the scheduler describes it."""

    id: str
    """`123`, or `123_4` for a task of an array."""
    name: str
    state: str
    reason: str = ""
    restarts: int = 0
    exit_code: str = ""

    @property
    def held(self) -> bool:
        return self.state == "PENDING" and self.reason.startswith("JobHeld")

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def code_and_signal(self) -> tuple[int, int]:
        """Exit code and signal, from `squeue`'s wait status (`768`) or `sacct`'s pair (`3:0`); a shell's 137 is signal 9 too."""
        first, _, second = self.exit_code.partition(":")
        status = int(first) if first.isdigit() else 0
        code, signal = (status, int(second)) if second.isdigit() else (status >> 8, status & 127)
        return (0, code - 128) if code > 128 else (code, signal)

    @property
    def words(self) -> str:
        reason = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state}{reason}" + (f", begun again {self.restarts} times" if self.restarts else "")


@dataclass(frozen=True)
class Scheduler:
    """SLURM, by its commands."""

    timeout_s: float = 60.0
    calls: Counter[str] = field(default_factory=Counter[str])
    """How often each command was used."""

    def queue(self) -> dict[str, Seen]:
        """This user's jobs, those that ended lately too, array tasks one by one."""
        options = ("--noheader", "--array", "--states=all", "--me", f"--Format={','.join(f'{name}:|' for name in FIELDS)}")
        found = {}
        for line in self._call("squeue", *options).splitlines():
            id, name, state, reason, restarts, code, *_ = [part.strip() for part in line.split("|")]
            found[id] = Seen(id, name, state.split()[0], reason, int(restarts or 0), code)
        return found

    def accounting(self, ids: Sequence[str]) -> dict[str, Seen]:
        """What accounting says of jobs; nothing where it is off or does not answer."""
        try:
            listed = self._call("sacct", "-n", "-P", "-X", "-D", "-o", "JobID,JobName,State,ExitCode", "-j", ",".join(ids))
        except RatchetError:
            return {}
        lines = [line.split("|") for line in listed.splitlines() if line.count("|") == 3]
        return {id: Seen(id, name, state.split()[0], exit_code=code) for id, name, state, code in lines if state}  # the latest stands last

    def release(self, ids: Iterable[str]) -> None:
        """Let held jobs go."""
        self._each("scontrol", ["release"], ids)

    def cancel(self, ids: Iterable[str]) -> None:
        """End jobs, or keep them from beginning."""
        self._each("scancel", [], ids)

    def requeue(self, id: str) -> None:
        """Put a running job back into the queue."""
        self._call("scontrol", "requeue", id)

    def _each(self, command: str, words: Sequence[str], ids: Iterable[str]) -> None:
        wanted = list(ids)
        for start in range(0, len(wanted), 200):  # a command line has a limit
            chunk = wanted[start : start + 200]
            self._call(command, *words, *([",".join(chunk)] if command == "scontrol" else chunk))

    def _call(self, command: str, *words: str) -> str:
        self.calls[command] += 1
        try:
            done = subprocess.run([command, *words], capture_output=True, text=True, timeout=self.timeout_s, check=False)
        except FileNotFoundError:
            raise SchedulerRefuses(f"there is no `{command}` here: SLURM's commands must be on the PATH of the driver and of its jobs") from None
        except subprocess.TimeoutExpired:
            raise SchedulerAway(f"`{command}` did not answer within {self.timeout_s:g} s") from None
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
            raise (SchedulerAway if is_silence(said) else SchedulerRefuses)(f"`{command}`: {said}")
        return done.stdout


SILENT = ("unable to contact", "timed out", "connection refused", "connection reset", "communication", "try again", "temporarily", "zero bytes")


def is_silence(said: str) -> bool:
    """Whether an error of SLURM's means that the controller was not there to answer."""
    return any(phrase in said.lower() for phrase in SILENT)


OVER = ("already completing or completed", "invalid job id", "pending execution")
"""What the controller answers to a step of a job that does not run, or not here any more."""


def outlived(printed: str) -> bool:
    """Whether `srun` said that its job is over, or waits to be begun again elsewhere, so that its step was never begun."""
    return any(phrase in line.lower() for line in printed.splitlines() if line.startswith("srun: error: Unable to") for phrase in OVER)


def unheard(printed: str) -> str:
    """What `srun` said of a controller that did not answer it, so that its step was never begun; nothing if it said no such thing."""
    said = [line for line in printed.splitlines() if line.startswith("srun: error: Unable to")]
    return next((line for line in said if is_silence(line)), "")
