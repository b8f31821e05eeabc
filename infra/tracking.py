"""MLflow's only door: a run's ledger, replayed into a tracking server or a SQLite file.

MLflow shows and compares; it decides nothing and holds nothing that is not in the ledger and the store. It may be away, slow, or
deleted: the next ingest writes what is missing. `replay.py` says what is written.
"""

import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.errors import Away, InputError
from ratchet.infra.claims import Lock
from ratchet.infra.history import history_of
from ratchet.infra.replay import Ingested, Replay
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.views import view_folder

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
"""MLflow's own are 120 s and 7 retries, for each of hundreds of requests. What the user has set stays."""

LOCK_S = 30.0
"""How long to wait for another process that ingests the same run."""


class TrackerAway(Away):
    """MLflow did not take what a run measured; the next ingest writes it."""


@dataclass(frozen=True, kw_only=True)
class MLflowTracker:
    """Shows runs in MLflow."""

    uri: str | None
    """None: `MLFLOW_TRACKING_URI`, else SQLite beside the root."""
    experiment: str
    """MLflow's group of comparable runs; created on first use."""

    def __post_init__(self) -> None:
        if not self.experiment or len(self.experiment) > 500:
            raise InputError("experiment names MLflow's experiment", got=repr(self.experiment), allowed="1 to 500 characters")

    def address(self, root: Path) -> str:
        """Where MLflow is for the runs of a root."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or local_address(root)

    def answers(self, root: Path) -> bool:
        """Whether it would take something now: a server that is frozen, or gone, does not say so within a second."""
        address = self.address(root)
        if not address.startswith("http"):
            return True
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=1.0):
                return True
        except urllib.error.HTTPError:
            return True
        except (OSError, ValueError):
            return False

    def ingest(self, run: RunFolder, store: Store, *, driven: bool = False) -> Ingested | None:
        """Write what MLflow lacks of a run, from any state; None if the run is not written down yet.

        `driven` says that a driver has the run in hand: without an end in its ledger it is then shown as running, and else as killed.
        """
        events = list(run.ledger)
        if not any(event["kind"] == "run" for event in events):
            return None
        prepare()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError  # MLflow lets some of its database's errors through

        address = self.address(run.root)
        try:
            with _alone(run):
                client = _client(address)
                replay = Replay(
                    client=client,
                    experiment_id=self._experiment(client, address, run.root),
                    run=run,
                    store=store,
                    history=history_of(events),
                    driven=driven,
                    served=address.startswith("http"),
                )
                return replay.bring_up_to_date()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            said = str(error).strip().split("\n")[0][:300]
            raise TrackerAway(f"MLflow at {_without_password(address)} does not take what {run.name} measured: {said}") from error

    def _experiment(self, client: Any, address: str, root: Path) -> str:
        from mlflow.exceptions import MlflowException

        location = (view_folder(root) / "mlflow").as_uri() if address == local_address(root) else None
        found = client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(client.create_experiment(self.experiment, artifact_location=location))
            except MlflowException:  # another run created it meanwhile
                found = client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise InputError(f"the MLflow experiment {self.experiment!r} was deleted", next="restore it in MLflow, or set tracker.experiment=NAME")
        if location and found.artifact_location != location:
            what = f"MLflow's database under {root} was made for another place ({found.artifact_location})"
            raise InputError(what, next=f"delete {view_folder(root) / 'mlflow.db'}: it is written anew from the ledgers")
        return str(found.experiment_id)


def local_address(root: Path) -> str:
    """The SQLite file of a root that has no tracking server."""
    return f"sqlite:///{view_folder(root) / 'mlflow.db'}"


def prepare() -> None:
    """Import MLflow (seconds): no telemetry, nothing printed, short timeouts."""
    os.environ.update(QUIET)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _client(address: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=address)


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """One process at a time writes a run into MLflow, where looking a run up and creating it are two steps."""
    deadline = time.monotonic() + LOCK_S
    with Lock(run.folder / "tracker") as lock:
        while not lock.try_acquire():
            if time.monotonic() > deadline:
                raise TrackerAway(f"another process has been writing {run.name} into MLflow for {LOCK_S:.0f} s")
            time.sleep(0.1)
        yield


def _without_password(address: str) -> str:
    return re.sub(r"//[^@/]*@", "//…@", address)
