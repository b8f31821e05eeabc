"""Jobs in processes of their own: held until they are known, alive after their driver, proven over before they are tried again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.errors import InputError
from ratchet.infra.executors import Ending, Executor, Inline, Job, JobRecord, Local, environment, start_time
from tests.toys.drive import wait_until


def job(folder: Path, how: str = "0") -> Job:
    log = folder / "deep" / "log"
    return Job(identity="i", attempt=1, arguments=("tests.toys.held", str(folder / "done"), how), call=lambda: None, log=log, state=folder)


def states(executor: Executor, *records: JobRecord) -> list[str]:
    return [look.state for look in executor.probe(records)]


def test_a_job_does_nothing_until_it_is_released(tmp_path: Path) -> None:
    executor = Local(cpus_per_task=3)
    (record,) = executor.submit([job(tmp_path)], "n")
    assert ["running"] == states(executor, record)
    assert not (tmp_path / "done").exists()
    executor.release([record])
    wait_until(lambda: states(executor, record) == ["over"], "the job's end")
    assert "3 True" == (tmp_path / "done").read_text(), "threads pinned, in a session of its own"


HOLD_AND_DIE = """
import json, os, signal, sys
from pathlib import Path
from ratchet.infra.executors import Local
from tests.infra.test_executors import job
executor = Local()
(record,) = executor.submit([job(Path(sys.argv[1]), "sleep")], "n")
if sys.argv[2] == "release":
    executor.release([record])
print(json.dumps(record), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("released", [False, True])
def test_a_drivers_death_ends_a_held_job_and_leaves_a_released_one(tmp_path: Path, released: bool) -> None:
    import json

    words = [sys.executable, "-c", HOLD_AND_DIE, str(tmp_path), "release" if released else "hold"]
    record = json.loads(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    if released:
        wait_until((tmp_path / "done").exists, "the job's work")
        assert ["running"] == states(Local(), record)
        os.kill(record["pid"], signal.SIGKILL)
    wait_until(lambda: states(Local(), record) == ["over"], "the job's end")
    assert released == (tmp_path / "done").exists()


@pytest.mark.parametrize(("how", "verdict"), [("0", "exit code 0"), ("3", "exit code 3"), ("kill", "killed by signal 9 (out of memory?)")])
def test_a_verdict_says_how_a_job_ended(tmp_path: Path, how: str, verdict: str) -> None:
    executor = Local()
    (record,) = executor.submit([job(tmp_path, how)], "n")
    executor.release([record])
    wait_until(lambda: states(executor, record) == ["over"], "the job's end")
    assert Ending(words=verdict) == executor.verdict(record)
    assert Ending(words="its process is gone") == Local().verdict(record)


def test_releasing_a_job_that_died_is_no_error(tmp_path: Path) -> None:
    executor = Local()
    (record,) = executor.submit([job(tmp_path)], "n")
    os.kill(record["pid"], signal.SIGKILL)
    wait_until(lambda: states(executor, record) == ["over"], "the job's end")
    executor.release([record])


def test_a_process_number_that_was_given_to_another_process_is_not_the_job() -> None:
    mine = {"pid": os.getpid(), "start": start_time(os.getpid())}
    assert ["running", "over"] == states(Local(), mine, mine | {"start": "00000000:1"})
    assert start_time(2**22 + 1) is None


def test_a_process_that_ended_and_was_not_waited_for_is_over() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: start_time(child.pid) is None, "the zombie")
    child.wait()


def test_inline_work_is_done_at_release_and_never_outlives_its_driver() -> None:
    done = []
    executor = Inline()
    (record,) = executor.submit([Job(identity="i", attempt=1, arguments=(), call=lambda: done.append(1), log=Path("log"), state=Path())], "n")
    assert [] == done
    executor.release([record])
    assert ([1], ["over"]) == (done, states(executor, record))


def test_a_jobs_environment_is_its_drivers_with_the_threads_pinned() -> None:
    found = environment(4, {"HOME": "/h", "OMP_NUM_THREADS": "64"})
    assert ("/h", "4", "4") == (found["HOME"], found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"])


def test_a_job_of_another_host_is_not_taken_for_dead() -> None:
    elsewhere = {"host": "another-host", "pid": os.getpid(), "start": start_time(os.getpid())}

    with pytest.raises(InputError, match="another-host"):
        states(Local(), elsewhere)
