"""`ratchet cancel`: end a run's driver and its jobs; what is published stays, and the same command goes on from there."""

import os
import signal
import socket
import sys
import time

from ratchet.flows.units import asked, claim_of
from ratchet.infra.claims import Claim
from ratchet.infra.crew import Crew
from ratchet.infra.executors import Inline
from ratchet.infra.lease import Lease, latest
from ratchet.infra.runs import RunFolder
from ratchet.infra.stores import held, store_of

WAIT_S = 15.0
"""How long a driver on this host may take to let go."""


def cancel(run: RunFolder) -> int:
    """Ask the run's driver to let go, then end every job of the run that may yet do something; says what it did."""
    run.opening()
    _end_driver(run)
    store = store_of(run)
    crew = Crew(Inline())
    titles = []
    for stage in asked(run.ledger, store):
        for identity, title in stage.units.items():
            claim = claim_of(store, identity)
            if claim.begun() and not store.find(identity) and _ended(claim, crew):
                titles.append(title)
    for title in titles:
        sys.stdout.write(f"cancelled: {title}\n")
    if not titles:
        sys.stdout.write("no job of the run was alive\n")
    if not Lease.is_held(run):
        with held(run, store):
            run.ledger.append("cancelled", titles=titles)
    sys.stdout.write(f"what is published stays; `ratchet resume {run.name}` goes on\n")
    return 0


def _end_driver(run: RunFolder) -> None:
    """A driver on this host is asked to detach; one elsewhere stops by itself when it finds its jobs cancelled."""
    who = latest(run.folder / "lease") if Lease.is_held(run) else None
    if who is None:
        return
    if who.host != socket.gethostname():
        sys.stdout.write(f"its driver (process {who.pid} on {who.host}) stops when it sees its jobs cancelled\n")
        return
    os.kill(who.pid, signal.SIGTERM)
    deadline = time.monotonic() + WAIT_S
    while Lease.is_held(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    sys.stdout.write(f"its driver, process {who.pid}, was asked to let go\n")


def _ended(claim: Claim, crew: Crew) -> bool:
    """End what a claim's attempt left; whether there was anything."""
    record = crew.left_by(claim)
    if record is None or crew.probe([record])[0].state == "over":
        return False
    crew.cancel([record])
    return True
