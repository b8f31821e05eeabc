"""`ratchet logs`: what a run's stages printed, attempt after attempt, shards too; with `--follow` also what they print from now on.

An artifact that another run made has that run's attempts: they are shown as well, since that is how this run's result came about.
Attempts that printed nothing are left out.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ratchet.errors import InputError
from ratchet.flows.units import asked, chosen, claim_of
from ratchet.infra.lease import Lease
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.stores import store_of
from ratchet.stages import VERBS

POLL_S = 0.3
ASK_S = 2.0
"""The same where asking what is published goes over a network."""


def print_logs(run: RunFolder, round: int | None, verb: str | None, *, follow: bool) -> int:
    """Print the logs of a run's stages, or of one round's or verb's; returns the exit code."""
    run.opening()
    if verb is not None and verb not in VERBS:
        raise InputError(f"there is no verb {verb!r}", got=f"--stage {verb}", allowed=", ".join(VERBS))
    store, printer = store_of(run), Printer()
    while True:
        held = follow and Lease.is_held(run)  # asked before reading, so that the last words are read too
        for title, log in _logs(run, store, round, verb, yet=held):
            printer.print(title, log, whole_lines=held)
        sys.stdout.flush()
        if not held:
            break
        time.sleep(POLL_S if store.runs is None else ASK_S)
    if not printer.read:
        which = "its stages" if round is None and verb is None else "the stages asked for"
        sys.stderr.write(f"ratchet: {run.name}: {which} printed nothing\n")
    return 0


def _logs(run: RunFolder, store: Store, round: int | None, verb: str | None, *, yet: bool) -> Iterator[tuple[str, Path]]:
    """The title and log of every attempt, in the order the stages were asked; with `yet`, stages may be missing that come later."""
    stages = asked(run.ledger, store)
    seen = set()
    for stage in stages if yet else chosen(stages, round, verb):
        if yet and (round not in (None, stage.round) or verb not in (None, stage.verb)):
            continue
        for identity, title in stage.units.items():
            if identity not in seen:
                seen.add(identity)
                claim = claim_of(store, identity)
                yield from ((f"{title} · attempt {number}", claim.attempt(number) / "log") for number in range(1, claim.attempts() + 1))


class Printer:
    """Prints what logs say beyond what it printed before, each under a header unless the same log goes on."""

    def __init__(self) -> None:
        self.read: dict[Path, int] = {}
        self.last: Path | None = None

    def print(self, title: str, log: Path, *, whole_lines: bool) -> None:
        """Print a log's news; `whole_lines` leaves an unfinished last line for later."""
        try:
            with log.open("rb") as file:
                file.seek(self.read.get(log, 0))
                fresh = file.read()
        except FileNotFoundError:
            return
        if whole_lines:
            fresh = fresh[: fresh.rfind(b"\n") + 1]
        if fresh:
            self.read[log] = self.read.get(log, 0) + len(fresh)
            header = "" if log == self.last else f"── {title}\n"
            self.last = log
            sys.stdout.write(header + fresh.decode(errors="replace") + ("" if fresh.endswith(b"\n") else "\n"))
