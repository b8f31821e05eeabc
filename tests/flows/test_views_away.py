"""MLflow's server dies or freezes in the middle of a run: no stage waits for it, and at the next contact nothing is missing."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.infra.ledger import results
from ratchet.infra.mlflow_server import Server, mlflow_server
from ratchet.infra.runs import RunFolder
from tests.toys.drive import Warm, wait_until

NAME = "toy"
WORDS = ("recipe=rest_em", "synthesis.seconds=0.02", "tracker=mlflow", "--name", NAME)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[Server]:
    with mlflow_server(database, tmp_path / "server") as running:
        running.wait()
        yield running


def shown(address: str) -> dict[str, Any]:
    """Run → its status and its metrics' points, as MLflow has them."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("ratchet")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    history = {run.info.run_name: {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics} for run in runs}
    points = {name: {metric: [(p.step, p.value) for p in found] for metric, found in metrics.items()} for name, metrics in history.items()}
    return {run.info.run_name: (run.info.status, points[run.info.run_name]) for run in runs}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_no_stage_waits_for_mlflow_and_the_next_contact_brings_what_it_missed(
    ratchet: Warm, root: Path, server: Server, database: str, tmp_path: Path, number: int
) -> None:
    driver = ratchet.start("run", *toys(), *WORDS, f"tracker.uri={server.url}", "--no-prefect", root=root)
    run = RunFolder(root, NAME)
    wait_until(lambda: any(event["kind"] == "advanced" and event["round"] == 0 for event in run.ledger), "round 0", 60)
    os.killpg(server.process.pid, number)
    wait_until(lambda: any(event["kind"] == "finished" for event in run.ledger), "the last round", 60)
    ended = time.monotonic()
    done = driver.wait()
    assert 0 == done.code, done.err
    assert 5 > time.monotonic() - ended, "the end is not held up"
    assert 1 == done.err.count("The same command again brings it up to date"), done.err
    assert 20 > slowest_stage(run), "stages are not held up"
    os.killpg(server.process.pid, signal.SIGKILL)

    with mlflow_server(database, tmp_path / "again") as again:
        again.wait()
        resumed = ratchet("resume", NAME, f"tracker.uri={again.url}", "--no-prefect", root=root)
        assert 0 == resumed.code, resumed.err
        found = shown(again.url)
    assert 0 == ratchet.run(*WORDS, root=tmp_path / "undisturbed").code
    assert results(RunFolder(tmp_path / "undisturbed", NAME).ledger) == results(run.ledger)
    whole = shown(f"sqlite:///{tmp_path}/undisturbed/.ratchet/mlflow.db")
    assert {name: status for name, (status, _) in whole.items()} == {name: status for name, (status, _) in found.items()}
    assert comparable(whole) == comparable(found)


def comparable(runs: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine's speed."""
    return {name: {metric: found for metric, found in points.items() if "second" not in metric} for name, (_, points) in runs.items()}


def slowest_stage(run: RunFolder) -> float:
    return max(event["seconds"] for event in run.ledger if event["kind"] == "published")


def toys() -> tuple[str, ...]:
    from tests.toys.drive import TOYS

    return TOYS
