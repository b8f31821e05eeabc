"""A wish to stop, heard by a job: its stage goes on to the next safe point, saves what it has in its scratch folder, and ends.

SLURM warns a job before its walltime ends and before it is preempted. The signal is noted here; whoever works in small pieces (a
trainer after a step, a synthesizer after a batch) calls `safe_point()` once what it did so far can be taken up again.
"""

import signal
from typing import Any

TRY_AGAIN = 75
"""Exit code of a job that stopped at a safe point; sysexits' word for it."""


class Interrupted(BaseException):
    """The stage stopped at a safe point because it was asked to. Not an error: nothing that handles errors may catch it."""


_wish: list[int] = []


def listen(*signals: int) -> None:
    """From now on these signals ask the stage to stop instead of ending the process."""
    for number in signals:
        signal.signal(number, _note)


def _note(number: int, frame: Any) -> None:
    _wish.append(number)


def asked() -> int | None:
    """The signal that asked first; None: nobody did."""
    return _wish[0] if _wish else None


def forget() -> None:
    """A new stage begins in this process."""
    _wish.clear()


def safe_point() -> None:
    """Stop here if somebody asked."""
    if _wish:
        raise Interrupted(signal.Signals(_wish[0]).name)
