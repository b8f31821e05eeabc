"""Stages on a real SLURM: every row of what can happen to a job or its driver, and each stage's work done once."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.flows.budget import Budget
from ratchet.infra.claims import Claim
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.slurm_executor import VERBS
from ratchet.infra.store import LocalStore
from tests.toys.drive import TOYS, Die, Done, Going, Warm, last_words, wait_until

pytestmark = pytest.mark.usefixtures("slurm")

NAME = "run"
ON_SLURM = ("executor=slurm", "executor.grace_s=5")
WORDS = ("recipe=rest_em", "rounds=0", "evaluation.samples=0", "synthesis.rows_per_shard=6", "--name", NAME)
"""Seven batches of jobs, two of them arrays."""
LONG = (*WORDS, "synthesis.seconds=0.5")
"""The same with an array whose two tasks work for three and two seconds."""


def run(ratchet: Warm, root: Path, *words: str, die: Die | None = None) -> Done:
    return ratchet.run(*words, *ON_SLURM, root=root, die=die)


def start(ratchet: Warm, root: Path, *words: str) -> Going:
    return ratchet.start("run", *TOYS, *words, *ON_SLURM, "--no-prefect", root=root)


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in RunFolder(root, NAME).ledger if event["kind"] == kind]


def jobs(root: Path, verb: str) -> list[str]:
    """The ids of the jobs that the run submitted for a verb."""
    return [event["job"]["job_id"] for event in events(root, "attempt") if f" · {verb}" in event["title"]]


def job_at_work(root: Path, verb: str = "synthesize") -> str:
    """A job of the verb that has begun its work."""

    def working() -> list[str]:
        mine = [event for event in events(root, "attempt") if f" · {verb}" in event["title"]]
        return [event["job"]["job_id"] for event in mine if starts_of(root, event["identity"])]

    wait_until(working, f"a job that does `{verb}`", 30)
    return working()[0]


def starts_of(root: Path, identity: str) -> list[str]:
    """A line for each time that a unit's work was begun, requeues too."""
    return [line for path in (root / ".ratchet/claims" / identity).glob("attempts/*/starts") for line in path.read_text().splitlines()]


def begun(root: Path) -> dict[str, int]:
    """How often each unit's work was begun."""
    return {folder.name: len(starts_of(root, folder.name)) for folder in (root / ".ratchet/claims").iterdir()}


def slurm_says(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def state_of(id: str) -> str:
    return slurm_says("squeue", "-h", "-t", "all", "-j", id, "-o", "%T %r")


def queue() -> list[str]:
    """The user's jobs that are not over."""
    return slurm_says("squeue", "-h", "-r", "--me", "-o", "%i %T").splitlines()


@pytest.fixture(autouse=True)
def _no_job_is_left(root: Path) -> Any:
    yield
    wait_until(lambda: not queue(), "the end of every job of the test", 30)


@pytest.fixture(scope="module")
def whole(ratchet: Warm, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """The results of a run on the driver's own process."""
    made: dict[tuple[str, ...], list[Any]] = {}

    def of(*words: str) -> list[Any]:
        if words not in made:
            root = tmp_path_factory.mktemp("inline")
            assert 0 == ratchet.run(*words, root=root).code
            made[words] = results(RunFolder(root, NAME).ledger)
        return made[words]

    return of


def test_a_run_on_slurm_makes_what_a_run_in_one_process_makes(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    done = run(ratchet, root, *WORDS)
    assert 0 == done.code, done.err
    assert whole(*WORDS) == results(RunFolder(root, NAME).ledger)
    assert {1} == set(begun(root).values())
    assert {"_0", "_1"} == {re.sub(r"^\d+", "", id) for id in jobs(root, "synthesize")}, "shards are tasks of one array"
    assert 1 == len({id.partition("_")[0] for id in jobs(root, "synthesize")})


DEATHS = [
    ("ratchet.infra.slurm_executor.Slurm._sbatch", "before"),
    ("ratchet.infra.slurm_executor.Slurm._sbatch", "after"),
    ("ratchet.infra.claims.Claim.record", "after"),
    ("ratchet.infra.slurm_executor.Slurm.release", "before"),
    ("ratchet.infra.slurm_executor.Slurm.release", "after"),
]


@pytest.mark.parametrize(("at", "when"), DEATHS, ids=lambda value: value.rpartition(".")[2])
def test_a_driver_may_die_at_any_step_of_a_submission(ratchet: Warm, root: Path, whole: Callable[..., list[Any]], at: str, when: str) -> None:
    n = 6 if at.endswith("record") else 5  # of the array: its first task's record; all of it else
    assert -9 == run(ratchet, root, *WORDS, die=Die(at, n, when)).code
    done = run(ratchet, root, *WORDS)
    assert 0 == done.code, done.err
    assert whole(*WORDS) == results(RunFolder(root, NAME).ledger)
    assert {1} == set(begun(root).values()), "no work was begun twice"


def test_a_driver_that_comes_back_attaches_to_its_array(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    assert -9 == run(ratchet, root, *LONG, die=Die("ratchet.infra.slurm_executor.Slurm.release", 5, "after")).code
    done = run(ratchet, root, *LONG)
    assert 0 == done.code, done.err
    assert 2 == done.err.count("attached to round 0 · evaluation · synthesize · shard")
    assert {1} == set(begun(root).values())
    assert whole(*LONG) == results(RunFolder(root, NAME).ledger)


def test_a_job_that_outlives_its_driver_publishes_and_is_collected(ratchet: Warm, root: Path) -> None:
    assert -9 == run(ratchet, root, *WORDS, die=Die("ratchet.infra.slurm_executor.Slurm.release", 5, "after")).code
    wait_until(lambda: not queue(), "the orphans' end", 30)
    done = run(ratchet, root, *WORDS)
    assert (0, 0) == (done.code, len(events(root, "attached"))), done.err
    assert {1} == set(begun(root).values())


def test_a_job_that_is_cancelled_stops_its_driver_and_the_next_command_begins_it_anew(ratchet: Warm, root: Path) -> None:
    driver = start(ratchet, root, *LONG)
    slurm_says("scancel", job_at_work(root))
    failed = driver.wait()
    assert 1 == failed.code
    assert re.search(r"round 0 · evaluation · synthesize · shard \d/2 failed \(CANCELLED\)", failed.err), failed.err
    assert "whole log: " in failed.err
    assert "Traceback" not in failed.err
    assert 0 == run(ratchet, root, *LONG).code
    assert {1, 2} == set(begun(root).values())


def test_a_job_that_is_requeued_is_waited_for(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    driver = start(ratchet, root, *LONG)
    slurm_says("scontrol", "requeue", job_at_work(root))
    done = driver.wait()
    assert 0 == done.code, done.err
    assert whole(*LONG) == results(RunFolder(root, NAME).ledger)
    assert 1 == max(len(words) for words in last_words(root).values()), "one attempt, begun twice"
    assert 2 == max(begun(root).values())


def test_a_job_that_is_warned_of_its_walltime_saves_and_requeues_itself(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    driver = start(ratchet, root, *LONG)
    slurm_says("scancel", "--signal=USR2", job_at_work(root))
    done = driver.wait()
    assert 0 == done.code, done.err
    assert whole(*LONG) == results(RunFolder(root, NAME).ledger)
    assert 2 == max(begun(root).values())
    logs = [path.read_text() for path in (root / ".ratchet" / "claims").glob("*/attempts/1/log")]
    assert 1 == sum("asked to stop by SIGUSR2" in log for log in logs)


def test_a_suspended_job_is_waited_for(ratchet: Warm, root: Path) -> None:
    driver = start(ratchet, root, *LONG)
    id = job_at_work(root)
    slurm_says("scontrol", "suspend", id)
    time.sleep(4)
    assert state_of(id).startswith("SUSPENDED")
    slurm_says("scontrol", "resume", id)
    assert 0 == driver.wait().code
    assert {1} == set(begun(root).values())


def test_a_component_that_raises_fails_the_stage_with_the_end_of_its_log(ratchet: Warm, root: Path) -> None:
    failed = ratchet.run(*WORDS, *ON_SLURM, root=root, env={"RATCHET_TEST_DIE": f"synthesize@{root / 'once'}"})
    assert 1 == failed.code
    assert re.search(r"synthesize · shard \d/2 failed \((FAILED|OUT_OF_MEMORY)", failed.err), failed.err
    assert "next: " in failed.err
    assert 0 == run(ratchet, root, *WORDS).code


def test_what_slurm_refuses_is_the_users_to_mend(ratchet: Warm, root: Path) -> None:
    refused = run(ratchet, root, *WORDS, "executor.resources.propose.partition=nowhere")
    assert 2 == refused.code
    assert "SLURM refuses the jobs of `propose`" in refused.err
    assert "invalid partition" in refused.err.lower()
    assert "executor.resources.propose" in refused.err
    assert 0 == run(ratchet, root, *WORDS).code


def test_hours_of_gpus_that_were_asked_for_are_counted_and_capped(ratchet: Warm, root: Path) -> None:
    words = ("recipe=rest_em", "rounds=1", "evaluation.samples=0", "--name", NAME, "executor.resources.train.gpus_per_node=2")
    capped = run(ratchet, root, *words, "budget.gpu_hours=0.0000001")
    assert 0 == capped.code, capped.err
    assert "budget.gpu_hours=1e-07" in capped.out, capped.out
    published = [event for event in events(root, "published") if " · shard " not in event["title"]]
    assert "round 1 · train" == published[-1]["title"], "the first stage with a GPU, and nothing after it"
    (job,) = [event["job"]["job_id"] for event in events(root, "attempt") if event["title"] == "round 1 · train"]
    assert re.search(r"TresPerNode=gres.gpu.2\b", slurm_says("scontrol", "show", "job", job))
    done = run(ratchet, root, *words, "budget.gpu_hours=1")
    assert (0, 1) == (done.code, len(events(root, "finished"))), done.err
    hours = Budget(NAME, {"gpu_hours": 1.0}, RunFolder(root, NAME).ledger, LocalStore(state=root / ".ratchet"))
    hours.count()
    assert pytest.approx(2 * published[-1]["seconds"] / 3600) == hours.used["gpu_hours"]


def test_cancel_ends_the_driver_and_its_jobs(ratchet: Warm, root: Path) -> None:
    driver = start(ratchet, root, *LONG)
    job_at_work(root)
    cancelled = ratchet("cancel", NAME, root=root)
    assert 0 == cancelled.code, cancelled.err
    assert 2 == cancelled.out.count("cancelled: round 0 · evaluation · synthesize · shard")
    assert 130 == driver.wait().code
    wait_until(lambda: not queue(), "the jobs' end", 15)
    assert 0 == run(ratchet, root, *LONG).code


def test_a_driver_that_is_interrupted_detaches_and_its_jobs_go_on(ratchet: Warm, root: Path) -> None:
    driver = start(ratchet, root, *LONG)
    job_at_work(root)
    os.kill(driver.pid, signal.SIGINT)
    done = driver.wait()
    assert (130, True) == (done.code, "ratchet cancel NAME" in done.err)
    assert queue()
    assert 0 == run(ratchet, root, *LONG).code
    assert {1} == set(begun(root).values())


def test_a_run_may_change_its_executor_while_a_job_of_the_former_is_at_work(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    assert -9 == run(ratchet, root, *LONG, die=Die("ratchet.infra.slurm_executor.Slurm.release", 5, "after")).code
    done = ratchet.run(*LONG, "executor=inline", root=root)
    assert 0 == done.code, done.err
    assert 2 == len(events(root, "attached"))
    assert {1} == set(begun(root).values())
    assert whole(*LONG) == results(RunFolder(root, NAME).ledger)


def test_a_job_runs_the_code_that_its_driver_had(ratchet: Warm, root: Path) -> None:
    assert 0 == run(ratchet, root, *WORDS).code
    (code,) = (root / ".ratchet" / "code").iterdir()
    assert (code / "ratchet" / "infra" / "launch.py").is_file()
    assert (code / "tests" / "toys" / "parts.py").is_file(), "the user's own components too"
    claim = Claim(root / ".ratchet" / "claims" / events(root, "attempt")[0]["identity"])
    assert "published" == json.loads((claim.attempt(1) / "exit.json").read_text())["state"]


HELD = ("executor.hold=true", "executor.resources.default.cpus_per_task=2", *(f"executor.resources.{verb}.cpus_per_task=1" for verb in VERBS))


def test_a_round_may_keep_one_allocation(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    words = ("recipe=rest_em", "rounds=1", "evaluation.samples=0", "synthesis.rows_per_shard=6", "--name", NAME)
    done = run(ratchet, root, *words, *HELD)
    assert 0 == done.code, done.err
    assert whole(*words) == results(RunFolder(root, NAME).ledger)
    assert {1} == set(begun(root).values())
    allocations = {event["round"]: set() for event in events(root, "stage")}
    rounds = {event["identity"]: event["title"].split(" · ")[0] for event in events(root, "attempt")}
    for event in events(root, "attempt"):
        allocations.setdefault(rounds[event["identity"]], set()).add(event["job"]["job_id"])
    assert [1, 1] == [len(allocations[f"round {n}"]) for n in (0, 1)], "one job a round"


def test_a_driver_that_comes_back_attaches_to_the_steps_of_its_allocation(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    assert -9 == run(ratchet, root, *LONG, *HELD, die=Die("ratchet.infra.allocation.Allocation.release", 5, "after")).code
    done = run(ratchet, root, *LONG, *HELD)
    assert 0 == done.code, done.err
    assert 2 == len(events(root, "attached"))
    assert {1} == set(begun(root).values())
    assert whole(*LONG) == results(RunFolder(root, NAME).ledger)


def test_an_allocation_that_is_warned_of_its_end_hands_its_steps_on(ratchet: Warm, root: Path, whole: Callable[..., list[Any]]) -> None:
    driver = start(ratchet, root, *LONG, *HELD)
    slurm_says("scancel", "--batch", "--signal=USR2", job_at_work(root))
    done = driver.wait()
    assert 0 == done.code, done.err
    assert whole(*LONG) == results(RunFolder(root, NAME).ledger)
    assert 1 <= len(events(root, "lost")) <= 2
    assert 2 == max(begun(root).values())
