"""A run never waits for MLflow, and MLflow misses nothing for long."""

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ratchet.errors import InputError
from ratchet.flows import tracking_view
from ratchet.flows.tables import console
from ratchet.flows.tracking_view import TrackingView
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from ratchet.infra.tracking import MLflowTracker, TrackerAway, local_address, prepare
from tests.toys.drive import Die, Warm, wait_until

FAKE = {"_target_": "tests.flows.test_tracking_view.Slow"}


@dataclass(frozen=True, kw_only=True)
class Slow:
    """A tracker that takes as long as it is let, and fails if it is told to."""

    calls: ClassVar[list[bool]] = []
    go: ClassVar[threading.Event] = threading.Event()
    error: ClassVar[list[Exception]] = []

    def answers(self, root: Path) -> bool:
        return True

    def ingest(self, run: RunFolder, store: LocalStore, *, driven: bool) -> None:
        self.calls.append(driven)
        self.go.wait(10)
        if self.error:
            raise self.error[0]


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    Slow.calls.clear()
    Slow.error.clear()
    Slow.go.clear()
    yield
    Slow.go.set()


def opened(root: Path, warnings: list[str]) -> TrackingView:
    view = TrackingView(FAKE, warn=warnings.append)
    view.opened(RunFolder(root, "run"), {})
    wait_until(lambda: Slow.calls, "the first ingest")
    return view


def test_rounds_that_end_while_mlflow_is_busy_are_one_ingest(root: Path) -> None:
    view = opened(root, [])
    began = time.monotonic()
    for _ in range(5):
        view.advanced({})
    assert 0.5 > time.monotonic() - began
    Slow.go.set()
    wait_until(lambda: len(Slow.calls) == 2, "the second ingest")
    view.closed("finished")
    assert [True, True, False] == Slow.calls


def test_the_end_of_a_run_waits_so_long_and_no_longer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_view, "END_S", 0.3)
    warnings: list[str] = []
    view = opened(root, warnings)
    began = time.monotonic()
    view.closed("finished")
    assert 0.3 <= time.monotonic() - began < 3
    assert ["MLflow is behind: it is still being written. The same command again brings it up to date."] == warnings


BEHIND = "MLflow is behind. The same command again brings it up to date."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TrackerAway("MLflow is away"), ["MLflow is away", BEHIND]),
        (InputError("the experiment was deleted"), ["the experiment was deleted"]),
        (ZeroDivisionError("a bug"), ["MLflow: ZeroDivisionError('a bug')"]),
    ],
)
def test_trouble_is_told_once_and_at_the_end(error: Exception, told: list[str], root: Path) -> None:
    warnings: list[str] = []
    Slow.error.append(error)
    Slow.go.set()
    view = opened(root, warnings)
    wait_until(lambda: warnings, "a warning")
    for _ in range(3):
        view.advanced({})
        time.sleep(0.02)
    view.closed("finished")
    assert told == [text.splitlines()[0] for text in warnings]


def test_a_run_that_never_began_shows_nothing() -> None:
    TrackingView(FAKE, warn=pytest.fail).closed("failed: held by another driver")
    assert [] == Slow.calls


def shown(root: Path, experiment: str) -> dict[str, Any]:
    """Run → status and number of points by metric, in the default database."""
    prepare()
    from mlflow import MlflowClient

    client = MlflowClient(local_address(root))
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])

    def points(run: Any) -> dict[str, int]:
        return {name: len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics}

    return {run.info.run_name: (run.info.status, points(run)) for run in runs}


def test_a_driver_that_was_killed_in_the_middle_of_an_ingest_is_made_good_by_the_same_command(ratchet: Warm, root: Path) -> None:
    words = ("recipe=rest_em", "tracker=mlflow", "--name", "toy")
    assert -9 == ratchet.run(*words, root=root, die=Die("mlflow.MlflowClient.log_batch", n=7)).code
    again = ratchet.run(*words, root=root)
    assert (0, "") == (again.code, "".join(line for line in again.err.splitlines() if "MLflow" in line))
    run = RunFolder(root, "toy")
    MLflowTracker(uri=None, experiment="undisturbed").ingest(run, LocalStore(state=run.state))
    assert shown(root, "undisturbed") == shown(root, "ratchet")
    assert {"round 0 · toy", "round 1 · toy", "round 2 · toy", "toy"} == shown(root, "ratchet").keys()


def test_mlflow_away_fails_no_run(ratchet: Warm, root: Path) -> None:
    done = ratchet.run("recipe=rest_em", "tracker=mlflow", "tracker.uri=http://127.0.0.1:9", root=root)
    assert 0 == done.code
    assert 1 == done.err.count("MLflow at http://127.0.0.1:9 does not take what")
    assert 1 == done.err.count(BEHIND)


def test_what_is_said_while_a_stage_is_at_work_does_not_end_in_the_stages_log(capsys: pytest.CaptureFixture[str]) -> None:
    say = console(stderr=True)
    with contextlib.redirect_stderr(io.StringIO()) as log:
        say.print("MLflow is away")
    assert ("MLflow is away\n", "") == (capsys.readouterr().err, log.getvalue())
