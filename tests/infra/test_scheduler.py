"""What SLURM says, read right: states, endings, silence. The commands are stand-ins that print what real ones printed."""

import os
from pathlib import Path

import pytest

from ratchet.errors import InputError
from ratchet.infra.scheduler import Scheduler, SchedulerAway, SchedulerRefuses, Seen, outlived
from ratchet.infra.slurm_executor import Slurm, _whole_arrays, valid_resources


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the PATH for SLURM's commands."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def says(folder: Path, command: str, out: str = "", err: str = "", code: int = 0) -> None:
    (folder / f"{command}.out").write_text(out)
    (folder / f"{command}.err").write_text(err)
    script = f'#!/bin/sh\necho "$@" >> {folder}/{command}.asked\ncat {folder}/{command}.out\ncat {folder}/{command}.err >&2\nexit {code}\n'
    (folder / command).write_text(script)
    (folder / command).chmod(0o755)


QUEUE = """\
7_0|ratchet-a|RUNNING|None|0|0|
7_1|ratchet-a|PENDING|JobHeldUser|0|0|
8|ratchet-b|PENDING|BeginTime|2|0|
9|ratchet-c|FAILED|NonZeroExitCode|0|768|
"""


def test_the_queue_is_read_in_one_call(commands: Path) -> None:
    says(commands, "squeue", QUEUE)
    scheduler = Scheduler()
    found = scheduler.queue()
    assert Seen("7_0", "ratchet-a", "RUNNING", "None", 0, "0") == found["7_0"]
    assert (True, False) == (found["7_1"].held, found["8"].held)
    assert "PENDING (BeginTime), begun again 2 times" == found["8"].words
    assert [False, False, False, True] == [seen.ended for seen in found.values()]
    assert {"squeue": 1} == scheduler.calls


@pytest.mark.parametrize("state", ["SUSPENDED", "REQUEUED", "COMPLETING", "CONFIGURING", "REQUEUE_HOLD", "RESIZING", "SIGNALING", "STAGE_OUT"])
def test_a_state_that_is_no_end_is_a_job_that_may_yet_do_something(state: str) -> None:
    assert not Seen("1", "n", state).ended


@pytest.mark.parametrize(
    ("said", "pair"), [("768", (3, 0)), ("9", (0, 9)), ("35072", (0, 9)), ("3:0", (3, 0)), ("0:9", (0, 9)), ("137:0", (0, 9)), ("", (0, 0))]
)
def test_an_exit_code_is_read_from_either_command(said: str, pair: tuple[int, int]) -> None:
    assert pair == Seen("1", "n", "FAILED", exit_code=said).code_and_signal


@pytest.mark.parametrize(
    "silence",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    ],
)
def test_silence_is_not_an_answer(commands: Path, silence: str) -> None:
    says(commands, "squeue", err=silence, code=1)
    with pytest.raises(SchedulerAway, match="squeue"):
        Scheduler().queue()


def test_a_command_that_hangs_is_silence_too(commands: Path) -> None:
    (commands / "squeue").write_text("#!/bin/sh\nsleep 5\n")
    (commands / "squeue").chmod(0o755)
    with pytest.raises(SchedulerAway, match=r"did not answer within 0\.1 s"):
        Scheduler(timeout_s=0.1).queue()


def test_a_refusal_is_an_answer(commands: Path) -> None:
    says(commands, "scontrol", err="slurm_suspend error: Invalid job id specified", code=1)
    with pytest.raises(SchedulerRefuses, match="Invalid job id"):
        Scheduler().release(["1"])


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SchedulerRefuses, match="there is no `squeue` here"):
        Scheduler().queue()


def record(id: str, name: str = "ratchet-a") -> dict[str, str]:
    return {"job_id": id, "name": name}


def test_one_call_answers_for_all_jobs_and_a_second_look_soon_after_costs_none(commands: Path) -> None:
    says(commands, "squeue", QUEUE)
    slurm = Slurm()
    for _ in range(50):
        looks = slurm.probe([record("7_0"), record("7_1"), record("8", "ratchet-b"), record("9", "ratchet-c")])
    assert ["running", "held", "running", "over"] == [look.state for look in looks]
    assert [1, 1, 3, 1] == [look.begun for look in looks]
    assert {"squeue": 1} == slurm.scheduler.calls


def test_a_job_that_a_whole_answer_does_not_show_is_gone_and_one_of_another_name_is_another(commands: Path) -> None:
    says(commands, "squeue", QUEUE)
    says(commands, "sacct", err="Slurm accounting storage is disabled", code=1)
    slurm = Slurm()
    assert ["over", "over"] == [look.state for look in slurm.probe([record("5"), record("7_0", "ratchet-older")])]
    ending = slurm.verdict(record("5"))
    assert ending.lost, "nothing says that the stage failed"
    assert "accounting does not say" in ending.words


def test_while_the_scheduler_is_silent_nothing_is_over(commands: Path) -> None:
    says(commands, "squeue", err="Unable to contact slurm controller", code=1)
    (look,) = Slurm().probe([record("5")])
    assert ("unknown", True) == (look.state, "waiting" in look.words)


def test_patience_ends_and_says_that_nothing_is_lost(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(commands, "squeue", err="Unable to contact slurm controller", code=1)
    slurm = Slurm(patience_s=-1)
    with pytest.raises(Exception, match="nothing is lost"):
        slurm.probe([record("5")])


@pytest.mark.parametrize(
    ("accounted", "words", "lost"),
    [
        ("5|ratchet-a|TIMEOUT|0:0", "TIMEOUT", True),
        ("5|ratchet-a|NODE_FAIL|0:0", "NODE_FAIL", True),
        ("5|ratchet-a|CANCELLED by 0|0:0", "CANCELLED", False),
        ("5|ratchet-a|OUT_OF_MEMORY|0:125", "OUT_OF_MEMORY, killed by signal 9", False),
        ("5|ratchet-a|FAILED|0:9", "FAILED, killed by signal 9", False),
        ("5|ratchet-a|FAILED|3:0", "FAILED, exit code 3", False),
        ("5|ratchet-a|REQUEUED|0:0\n5|ratchet-a|TIMEOUT|0:0", "TIMEOUT", True),
        ("5|somebody-else|FAILED|3:0", "GONE", True),
    ],
)
def test_accounting_says_how_a_job_ended_that_the_queue_forgot(commands: Path, accounted: str, words: str, lost: bool) -> None:
    says(commands, "squeue", QUEUE)
    says(commands, "sacct", accounted + "\n")
    slurm = Slurm()
    slurm.probe([record("5")])
    ending = slurm.verdict(record("5"))
    assert ending.words.startswith(words)
    assert lost == ending.lost


@pytest.mark.parametrize(
    ("printed", "lost"),
    [
        ("srun: error: Unable to confirm allocation for job 5: Socket timed out on send/recv operation\n", True),
        ("srun: error: Unable to create step for job 5: Unable to contact slurm controller (connect failure)\n", True),
        ("srun: error: node1: task 0: Exited with exit code 1\n", False),
        ("requests.exceptions.Timeout: the request timed out\nsrun: error: node1: task 0: Exited with exit code 1\n", False),
        (None, False),
    ],
)
def test_a_job_whose_step_the_controller_did_not_answer_is_lost_and_has_not_failed(commands: Path, printed: str | None, lost: bool) -> None:
    says(commands, "squeue", "5|ratchet-a|FAILED|NonZeroExitCode|0|256|\n")
    if printed:
        (commands / "5_0_log.out").write_text(printed)
    slurm = Slurm()
    started = {**record("5"), "folder": str(commands)}
    assert "over" == slurm.probe([started])[0].state
    assert lost == (ending := slurm.verdict(started)).lost
    assert ("the controller did not answer" in ending.words) == lost


@pytest.mark.parametrize(
    ("why", "over"),
    [("Job/step already completing or completed", True), ("Invalid job id specified", True), ("More processors requested than permitted", False)],
)
def test_a_step_that_outlived_its_job_is_told_from_one_that_may_not_be(why: str, over: bool) -> None:
    said = f"slurmstepd: error: whatever\nsrun: error: Unable to create step for job 5: {why}\n"
    assert over == outlived(said)


def test_a_pending_task_that_vanishes_was_cancelled(commands: Path) -> None:
    says(commands, "squeue", QUEUE)
    says(commands, "sacct")
    slurm = Slurm()
    slurm.probe([record("7_1")])
    says(commands, "squeue", "")
    slurm._look(fresh=True)
    assert "over" == slurm.probe([record("7_1")])[0].state
    assert ("CANCELLED", False) == ((ending := slurm.verdict(record("7_1"))).words, ending.lost)


def test_a_whole_array_is_named_once() -> None:
    submitted = dict.fromkeys(["7_0", "7_1", "7_2", "8"], 0.0)
    assert ["7", "8"] == _whole_arrays(["7_0", "7_1", "7_2", "8"], submitted)
    assert ["7_0", "7_2"] == _whole_arrays(["7_0", "7_2"], submitted)
    assert ["9_1"] == _whole_arrays(["9_1"], submitted), "of an array that another driver submitted"


def test_a_wrong_resource_is_answered_with_the_valid_ones() -> None:
    with pytest.raises(InputError, match=r"executor\.resources\.train has no key 'gpu'(?s:.*)gpus_per_node"):
        Slurm(resources={"train": {"gpu": 1}})
    with pytest.raises(InputError, match="given per verb"):
        Slurm(resources={"training": {}})
    assert {"gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min", "partition", "qos", "account", "constraint", "array_parallelism"} <= set(
        valid_resources()
    )


def test_a_verbs_resources_are_the_defaults_but_for_what_it_names() -> None:
    slurm = Slurm(resources={"default": {"partition": "cpu", "timeout_min": 60, "qos": None}, "train": {"partition": "gpu", "gpus_per_node": 1}})
    assert {"cpus_per_task": 1, "partition": "cpu", "timeout_min": 60} == slurm.resources_of("verify")
    assert {"cpus_per_task": 1, "partition": "gpu", "timeout_min": 60, "gpus_per_node": 1} == slurm.resources_of("train")
