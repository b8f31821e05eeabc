"""What can go wrong, each with the exit code the command line answers with.

    RatchetError            1
    ├── InputError          2   the user's input or setting; the message names what, got, allowed, next
    ├── RunHeld             3   another living driver holds the run
    ├── StageFailed         1   a stage did not publish; carries the job's state and the end of its log
    ├── CorruptArtifact     1   a published file is not what its manifest says
    ├── Away                1   a store, scheduler or tracker did not answer for longer than it is waited for; nothing is lost
    └── NothingSelected     0   a round's selection is empty; `on_empty` decides what that means

A rollout that goes wrong is data (an `outcome`), never one of these.
"""

import errno

OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
"""Errors of a disk or a path that whoever owns the machine can mend: told in one line, without a traceback, exit code 1."""


class RatchetError(Exception):
    """The root; its message is shown to the user as it stands, without a traceback."""

    exit_code: int = 1


class InputError(RatchetError):
    """The user's input or setting cannot be used."""

    exit_code = 2

    def __init__(self, what: str, *, got: object = None, allowed: object = None, next: str | None = None) -> None:
        lines = [what]
        lines += [f"  got:     {got}"] if got is not None else []
        lines += [f"  allowed: {allowed}"] if allowed is not None else []
        lines += [f"  next:    {next}"] if next is not None else []
        super().__init__("\n".join(lines))
        self.what = what


class RunHeld(RatchetError):
    """Another living driver holds the run."""

    exit_code = 3


class StageFailed(RatchetError):
    """A stage ended without publishing its artifact."""

    def __init__(self, stage: str, *, state: str, reason: str, exit_code: int = 1, log_tail: str = "", log_path: str = "", next: str = "") -> None:
        parts = [f"{stage} failed ({state}): {reason}"]
        if log_tail:
            parts.append("  end of its log:\n" + "\n".join(f"    {line}" for line in log_tail.splitlines()))
        if log_path:
            parts.append(f"  whole log: {log_path}")
        if next:
            parts.append(f"  next: {next}")
        super().__init__("\n".join(parts))
        self.stage, self.state, self.reason = stage, state, reason
        self.exit_code = exit_code  # a stage that met bad input answers as bad input does


class CorruptArtifact(RatchetError):
    """A published file is missing or differs from its manifest."""


class Away(RatchetError):
    """Who was asked did not answer, and nothing follows from that: the same command goes on when it is back."""


class NothingSelected(RatchetError):
    """A selection kept no row, so there is nothing to train on."""

    exit_code = 0
