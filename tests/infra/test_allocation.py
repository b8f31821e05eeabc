"""The allocation's side of a round: what becomes of its tickets when a step cannot begin. `srun` is a stand-in that says what real ones said."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from ratchet.infra.allocation import LIFE, Worker

AWAY = "srun: error: Unable to create step for job 5: Socket timed out on send/recv operation"
TAKEN = "srun: error: Unable to create step for job 5: Job/step already completing or completed"
REFUSED = "srun: error: Unable to create step for job 5: More processors requested than permitted"


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker with one ticket to run."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = tmp_path / "tickets"
    folder.mkdir()
    (folder / "a-0.ready").write_text(json.dumps({"arguments": ["module"], "log": "log", "cpus": 1, "gpus": False}))
    return Worker(folder, cpus=1)


def srun(worker: Worker, line: str) -> None:
    command = worker.folder.parent / "srun"
    command.write_text(f"#!/bin/sh\n{line}\n")
    command.chmod(0o755)


def turn(worker: Worker) -> dict[str, str]:
    """Begin what is ready and see it over; the tickets by how they stand now, leaving out what `srun` said."""
    worker._begin()
    for step in worker.steps.values():
        step.wait()
    worker._reap()
    return {path.suffix: path.read_text() for path in worker.folder.iterdir() if path.suffix in (".ready", ".running", ".done")}


def test_a_step_that_the_controller_does_not_answer_is_begun_again(worker: Worker) -> None:
    srun(worker, f"echo '{AWAY}' >&2; exit 1")
    assert [".ready"] == [*turn(worker)]
    assert not worker.leaving
    srun(worker, "exit 0")
    assert {".done": '{"code":0}'} == turn(worker)


def test_a_step_of_a_job_that_is_over_waits_for_that_job_s_next_life(worker: Worker) -> None:
    srun(worker, f"echo '{TAKEN}' >&2; exit 1")
    assert [".ready"] == [*turn(worker)]
    assert worker.leaving


@pytest.mark.parametrize(("line", "code"), [(f"echo '{REFUSED}' >&2; exit 1", 1), ("exit 3", 3), ("exit 137", -9), ("exit 143", -15)])
def test_how_a_step_ended_is_written_down(worker: Worker, line: str, code: int) -> None:
    srun(worker, line)
    assert {".done": json.dumps({"code": code}, separators=(",", ":"))} == turn(worker)


def test_a_step_that_ends_with_its_allocation_waits_for_the_next_one(worker: Worker) -> None:
    srun(worker, "exit 143")
    worker._begin()
    worker.leaving = True  # it was warned too
    assert [".ready"] == [*turn(worker)]


def test_a_worker_that_was_begun_again_elsewhere_writes_nothing_more(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    srun(worker, "exec sleep 60")
    monkeypatch.setattr(time, "sleep", lambda seconds: (worker.folder / LIFE).write_text("another"))  # while this one pauses
    assert 0 == worker.work()
    (step,) = worker.steps.values()
    assert -signal.SIGKILL == step.wait()
    assert [] == list(worker.folder.glob("*.done"))
