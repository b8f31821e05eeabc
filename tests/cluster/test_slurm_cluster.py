"""`infra/slurm/cluster.sh` is a real Slurm that does, in seconds, what a site does to jobs."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.clusters import CLUSTER, Cluster, cluster, daemons_of, need_installed
from tests.toys.drive import wait_until

GREEDY = "python3 -c \"import time; held = b'x' * (300 << 20); time.sleep(30)\""
"""Takes 300 MB."""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(autouse=True)
def _no_job_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "slurm" in request.fixturenames:
        request.getfixturevalue("slurm").clear()


@pytest.fixture(scope="module")
def billed() -> Iterator[Cluster]:
    """A site that wants an account named."""
    need_installed(CLUSTER)
    with cluster("--accounts", "on", "--first-job-id", "7") as made:
        yield made


@pytest.fixture(scope="module")
def terse() -> Iterator[Cluster]:
    """A site without accounting, on which a job that ended is soon forgotten."""
    need_installed(CLUSTER)
    with cluster("--accounting", "off", "--min-job-age", "2") as made:
        yield made


def test_many_small_jobs_run_at_once_whatever_the_machine_has(slurm: Cluster) -> None:
    ids = [slurm.submit("sleep 30") for _ in range(12)]
    for id in ids:
        slurm.wait(id, "RUNNING")


def test_an_array_runs_no_more_tasks_at_a_time_than_it_says(slurm: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "times"
    work = f"sh -c 'echo +1 >> {out}; sleep 1.5; echo -1 >> {out}'"
    id = slurm.submit(work, "--array=0-3%2")
    slurm.wait(f"{id}_3", "COMPLETED")
    wait_until(lambda: 8 == len(lines(out)), "all four tasks")
    at_work = [sum(map(int, lines(out)[: n + 1])) for n in range(8)]
    assert 2 == max(at_work)


def test_jobs_that_are_requeued_come_back_in_seconds_and_the_nodes_stay_well(slurm: Cluster, tmp_path: Path) -> None:
    """Those, too, whose processes do not end when they are told to: they are killed two seconds later."""
    stubborn = 'python3 -c "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"'
    ids = [slurm.submit(work) for work in (*["sleep 60"] * 8, stubborn, f"srun {stubborn}")]
    for id in ids:
        slurm.wait(id, "RUNNING")
    time.sleep(1)  # for Python to be there
    began = time.monotonic()
    slurm.says("scontrol", "requeue", ",".join(ids))
    slurm.wait(ids[0], "RUNNING", restarts=1)
    assert 5 < time.monotonic() - began < 15, "six seconds, and what a busy machine adds; without `--requeue-delay` 120"
    for id in ids:
        slurm.wait(id, "RUNNING", restarts=1)
    assert {"allocated", "mixed", "idle"} >= set(slurm.nodes().values()), "none is drained"
    assert slurm.remembers(ids[0], ("REQUEUED",), ("RUNNING",), fields=["State"])


def test_a_job_of_the_higher_partition_preempts_one_of_the_lower_which_comes_back(slurm: Cluster) -> None:
    lower = slurm.submit("sleep 60", "--nodelist=node1")
    slurm.wait(lower, "RUNNING")
    higher = slurm.submit("sleep 1", "--partition=high", "--exclusive", "--nodelist=node1")
    slurm.wait(higher, "COMPLETED")
    slurm.wait(lower, "RUNNING", restarts=1)
    assert slurm.remembers(lower, ("PREEMPTED",), ("RUNNING",), fields=["State"])


def test_each_job_gets_gpus_of_its_own_and_the_next_one_waits(slurm: Cluster, tmp_path: Path) -> None:
    work = "sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 30'"
    ids = [slurm.submit(work, "--gres=gpu:1", "--nodelist=node1", out=tmp_path / str(n)) for n in range(3)]
    for id in ids[:2]:
        slurm.wait(id, "RUNNING")
    wait_until(lambda: lines(tmp_path / "0") and lines(tmp_path / "1"), "what the jobs print")
    assert {"0", "1"} == {*lines(tmp_path / "0"), *lines(tmp_path / "1")}
    wait_until(lambda: (seen := slurm.seen(ids[2])) is not None and seen.reason == "Resources", "the third to wait")


def test_a_job_that_takes_more_memory_than_it_asked_for_is_killed(slurm: Cluster, tmp_path: Path) -> None:
    id = slurm.submit(GREEDY, "--mem=100", out=tmp_path / "log")
    slurm.wait(id, "FAILED")
    assert slurm.remembers(id, ("FAILED", "0:9"))
    assert "exceeded memory limit" in (tmp_path / "log").read_text()
    within = slurm.submit("sleep 2", "--mem=100")
    slurm.wait(within, "COMPLETED")


@pytest.mark.slow
def test_the_kernel_kills_it_where_there_are_cgroups() -> None:
    need_installed(CLUSTER)
    if not os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK):
        pytest.skip("--memory-limit cgroup needs memory cgroups, version 1, that may be written to")
    with cluster("--memory-limit", "cgroup", "--node-prefix", f"kernel{os.getpid()}-") as made:
        id = made.submit(GREEDY, "--mem=100")
        made.wait(id, "OUT_OF_MEMORY")
        assert made.remembers(id, ("OUT_OF_MEMORY", "0:125"))
    assert [] == list(Path("/sys/fs/cgroup").glob(f"*/slurm_kernel{os.getpid()}*"))


def test_jobs_go_on_while_the_controller_is_away(slurm: Cluster, tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    id = slurm.submit(f"sh -c 'while sleep 0.1; do echo >> {beats}; done'")
    slurm.wait(id, "RUNNING")
    slurm("stop-controller")
    before = len(lines(beats))
    refused = slurm.run("sbatch", "--wrap", "true")
    assert (1, True) == (refused.returncode, "Unable to contact slurm controller" in refused.stderr)
    wait_until(lambda: len(lines(beats)) > before + 5, "beats of a job whose controller is away")
    slurm("start-controller")
    assert "RUNNING" == slurm.wait(id, "RUNNING").state


def test_the_queue_answers_while_accounting_is_away(slurm: Cluster) -> None:
    id = slurm.submit("true")
    slurm.wait(id, "COMPLETED")
    slurm("stop-accounting")
    assert 1 == slurm.run("sacct", "-j", id).returncode
    slurm.wait(slurm.submit("true"), "COMPLETED")
    slurm("start-accounting")
    assert slurm.remembers(id, ("COMPLETED", "0:0"))


@pytest.mark.slow
def test_the_jobs_of_a_node_that_is_lost_are_run_on_another(slurm: Cluster, tmp_path: Path) -> None:
    """Half a minute: silence is what tells."""
    log = tmp_path / "log"
    filler = slurm.submit("sleep 60", "--exclusive", "--nodelist=node1")
    slurm.wait(filler, "RUNNING")
    dead = slurm.submit("sh -c 'echo $SLURMD_NODENAME; exec sleep 60'", out=log)
    slurm.wait(dead, "RUNNING")
    slurm.says("scancel", filler)
    gone = slurm.submit("sleep 60", "--no-requeue", "--nodelist=node2")
    slurm.wait(gone, "RUNNING")
    slurm("kill-node", "2", "--with-jobs")
    slurm.wait(gone, "NODE_FAIL", limit_s=60)
    slurm.wait(dead, "RUNNING", restarts=1, limit_s=30)
    wait_until(lambda: ["node2", "node1"] == [line for line in lines(log) if line.startswith("node")], "the second start")
    assert slurm.remembers(dead, ("NODE_FAIL",), ("RUNNING",), fields=["State"])
    slurm("start-node", "2")
    wait_until(lambda: slurm.nodes()["node2"] == "idle", "the node to be back")


def test_a_job_whose_node_is_cut_off_goes_on(tmp_path: Path) -> None:
    """Which is why what an attempt writes must not be taken for what another one does."""
    need_installed(CLUSTER)
    beats = tmp_path / "beats"
    with cluster("--accounting", "off") as made:
        id = made.submit(f"sh -c 'while sleep 0.1; do echo >> {beats}; done'")
        made.wait(id, "RUNNING")
        wait_until(lambda: lines(beats), "the first beat")
        made("kill-node", "1")
        before = len(lines(beats))
        wait_until(lambda: len(lines(beats)) > before + 5, "beats of a job that nobody watches")
        state = made.state
        made("down")
        after = len(lines(beats))
        assert [] == daemons_of(state)
        time.sleep(0.5)
        assert after == len(lines(beats)), "`down` ends also what its nodes lost sight of"


def test_a_site_that_bills_wants_an_account_that_is_there(billed: Cluster) -> None:
    refused = billed.run("sbatch", "--account=nobody", "--wrap", "true")
    assert (1, True) == (refused.returncode, "Invalid account or account/partition combination" in refused.stderr)
    refused = billed.run("sbatch", "--account=lab", "--qos=gold", "--wrap", "true")
    assert (1, True) == (refused.returncode, "Invalid qos specification" in refused.stderr)
    billed.wait(billed.submit("true", "--account=lab"), "COMPLETED")


@pytest.mark.slow
def test_a_controller_that_lost_its_memory_gives_the_numbers_out_again(billed: Cluster) -> None:
    billed("restart-controller", "--clean", "--first-job-id", "100")
    first = billed.submit("true", "--job-name=first")
    assert billed.remembers(first, ("first", "COMPLETED"), fields=["JobName", "State"])
    billed("restart-controller", "--clean")
    second = billed.submit("false", "--job-name=second")
    assert ("100", "100") == (first, second)
    billed.wait(second, "FAILED")
    assert billed.remembers(second, ("first", "COMPLETED"), ("second", "FAILED"), fields=["JobName", "State"])


def test_a_site_without_accounting_says_so(terse: Cluster) -> None:
    terse.wait(terse.submit("sleep 1"), "COMPLETED")
    refused = terse.run("sacct", "-j", "1")
    assert (1, "Slurm accounting storage is disabled") == (refused.returncode, refused.stderr.strip())


@pytest.mark.slow
def test_a_job_that_ended_is_forgotten(terse: Cluster) -> None:
    """Up to half a minute: the controller forgets in its own rhythm."""
    id = terse.submit("sleep 1")
    terse.wait(id, "COMPLETED")
    wait_until(lambda: terse.seen(id) is None, "the job to be forgotten", 60)
    assert "Invalid job id specified" in terse.run("scontrol", "show", "job", id).stderr
