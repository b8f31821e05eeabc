"""`ratchet ui`: the MLflow and Prefect pages of a root, until Ctrl-C. Nothing of them outlives the command."""

import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from ratchet.errors import InputError, RatchetError
from ratchet.flows.build import build
from ratchet.flows.prefect_server import hold
from ratchet.flows.summary import summary_of
from ratchet.infra.lease import Lease
from ratchet.infra.mlflow_server import Server, mlflow_server
from ratchet.infra.runs import STATE, RunFolder, runs_under
from ratchet.infra.stores import store_of
from ratchet.infra.tracking import MLflowTracker
from ratchet.infra.views import view_folder

Tracked = Mapping[RunFolder, MLflowTracker]


def ui(root: Path) -> int:
    """Serve the pages, print where they are, bring MLflow up to date, and wait; returns the exit code."""
    if not (root / STATE).is_dir():
        raise InputError(f"there are no runs under {root} yet", next="`ratchet run recipe=b_star` starts one, or give --root")
    _say("starting the pages …")
    try:
        with ExitStack() as stack:
            tracked = _tracked(root)
            servers = _mlflow(root, tracked, stack)
            prefect = stack.enter_context(hold(root, warn=_say))
            for server in servers.values():
                server.wait()
                _say(f"  MLflow   {server.url}")
            if prefect:
                _say(f"  Prefect  {prefect.removesuffix('/api')}")
            _say("Ctrl-C ends them.")
            pages = {address: server.url for address, server in servers.items()}
            threading.Thread(target=_catch_up, args=(root, tracked, pages), daemon=True, name="catch up").start()
            while not (ended := [server for server in servers.values() if not server.alive]):
                time.sleep(0.2)
            _say(f"ratchet: the MLflow server ended by itself; its log: {ended[0].log}")
            return 1
    except KeyboardInterrupt:
        return 0


def _tracked(root: Path) -> Tracked:
    """The runs that are shown in MLflow, each with the tracker that its config names."""
    configs = {run: summary_of(run).config for run in runs_under(root)}
    return {run: build(config["tracker"], "tracker") for run, config in configs.items() if config.get("tracker")}


def _mlflow(root: Path, tracked: Tracked, stack: ExitStack) -> dict[str, Server]:
    """Start a server for every database that the root's runs are tracked in, by its address; a tracking server of the user's is only named."""
    servers = {}
    default = MLflowTracker(uri=None, experiment="ratchet")
    for address in dict.fromkeys(tracker.address(root) for tracker in [default, *tracked.values()]):
        if address.startswith(("http://", "https://")):
            _say(f"  MLflow   {address}  (not started here)")
        else:
            servers[address] = stack.enter_context(mlflow_server(address, view_folder(root)))
    return servers


def _catch_up(root: Path, tracked: Tracked, pages: Mapping[str, str]) -> None:
    """Write into MLflow what it lacks of any run, and say where the runs are: its start page shows something else first."""
    told = set[str]()
    for run, tracker in tracked.items():
        try:
            done = tracker.ingest(run, store_of(run), driven=Lease.is_held(run))
        except RatchetError as error:
            _say(f"  {error}")
            continue
        address = tracker.address(root)
        page = f"{pages.get(address, address)}/#/experiments/{done.experiment_id}?workflowType=machine_learning" if done else ""
        if page and page not in told:
            told.add(page)
            _say(f"  runs     {page}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
