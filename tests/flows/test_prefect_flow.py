"""A run's flow in Prefect has all its stages; and whatever becomes of Prefect, the run ends as it would have without it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import RunHeld, StageFailed
from ratchet.flows import prefect_flow, prefect_server
from ratchet.flows.driver import View
from ratchet.flows.prefect_flow import Ending, Ticket, in_flow
from ratchet.flows.prefect_server import hold
from ratchet.infra.lease import Lease
from ratchet.infra.runs import RunFolder
from ratchet.stages import Stage
from tests.flows.test_prefect_server import processes_of, wait_until
from tests.toys.drive import TOYS
from tests.toys.parts import Judge

CONFIG: Any = {"recipe": {"name": "loop"}, "seed": 1}
MANIFEST: Any = type("Stands", (), {"kind": "rollouts", "rows": 3, "digest": "d" * 64})


@pytest.fixture(scope="module")
def site(memory: Path) -> Iterator[Path]:
    """A root with a server that stays for all tests here that do not kill it."""
    with tempfile.TemporaryDirectory(prefix="ratchet-", dir=memory, ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(prefect_server.GRACE, "1")
        with hold(Path(folder), pytest.fail):
            yield Path(folder)
        wait_until(lambda: not processes_of(Path(folder)), 8)


@pytest.fixture(scope="module")
def yard(memory: Path) -> Iterator[Path]:
    """A root whose server only the commands hold."""
    with tempfile.TemporaryDirectory(prefix="ratchet-", dir=memory, ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(prefect_server.GRACE, "1")
        yield Path(folder)
        wait_until(lambda: not processes_of(Path(folder)), 8)


def ask(root: Path, path: str, **body: Any) -> Any:
    """What the API of the root's server says."""
    with hold(root, pytest.fail) as url:
        request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def flows_of(root: Path, name: str) -> list[dict[str, Any]]:
    """The flow runs of a run, the first one first."""
    found: list[dict[str, Any]] = ask(root, "/flow_runs/filter", flow_runs={"tags": {"all_": [f"run:{name}"]}}, sort="START_TIME_ASC")
    return found


def tasks_of(root: Path, flow: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Title → state and message of a flow run's tasks."""
    found = ask(root, "/task_runs/filter", flow_runs={"id": {"any_": [flow["id"]]}}, sort="ID_DESC")
    assert len(found) == len({task["name"] for task in found})
    return {task["name"]: (task["state"]["name"], task["state"]["message"]) for task in found}


def start(root: Path, name: str, *words: str) -> "subprocess.Popen[str]":
    """A short run, in a process of its own."""
    command = [sys.executable, "-P", "-m", "ratchet.flows.cli", "run", *TOYS, "recipe=rest_em", "rounds=1"]
    return subprocess.Popen([*command, "--root", root, "--name", name, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> str:
    """What a command said; it must end well."""
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def titles(root: Path, name: str) -> set[str]:
    """The stages that a run's ledger has."""
    return {event["title"] for event in RunFolder(root, name).ledger if event["kind"] == "stage"}


def test_every_stage_is_a_task_run_and_on_the_next_command_a_reused_one(site: Path) -> None:
    for _ in range(2):
        assert "Prefect" not in finish(start(site, "whole"))
    first, second = flows_of(site, "whole")
    assert (("COMPLETED", "finished"),) * 2 == tuple((flow["state"]["type"], flow["state"]["message"]) for flow in (first, second))
    assert ("whole", "rest_em", {"ratchet"}) == (first["name"], first["parameters"]["config"]["recipe"]["name"], {*first["tags"]} & {"ratchet"})
    made, found = tasks_of(site, first), tasks_of(site, second)
    assert titles(site, "whole") == made.keys() == found.keys()
    assert {"Completed"} == {state for title, (state, _) in made.items() if "synthesize" in title}
    assert {"Reused"} == {state for state, _ in found.values()}
    assert all(message.startswith("published before: ") for _, message in found.values())
    logs = [log["message"] for log in ask(site, "/logs/filter", logs={"flow_run_id": {"any_": [first["id"]]}})]
    assert any(re.match(r"round \d · .*: shard 2/\d: attempt 1, job ", line) for line in logs), logs
    assert any(re.match(r"round 1 · train: completed, policy, \d+ rows, digest ", line) for line in logs), logs


def test_a_killed_driver_leaves_no_process_and_its_flow_is_marked_crashed_by_the_next(yard: Path) -> None:
    driver = start(yard, "killed", "synthesis.seconds=0.01")
    wait_until(lambda: titles(yard, "killed") >= {"round 1 · synthesize"}, 60)
    driver.kill()
    driver.communicate()
    wait_until(lambda: not processes_of(yard), 8)
    assert "Prefect" not in finish(start(yard, "killed", "synthesis.seconds=0.01"))
    left, whole = flows_of(yard, "killed")
    assert ("CRASHED", "COMPLETED") == (left["state"]["type"], whole["state"]["type"])
    assert whole["id"] in left["state"]["message"]
    assert {"Completed", "Crashed"} >= {state for state, _ in tasks_of(yard, left).values()}
    tasks = tasks_of(yard, whole)
    assert titles(yard, "killed") == tasks.keys()
    assert ("Reused", "Completed") == (tasks["round 0 · create"][0], tasks["round 1 · evaluation · evaluate"][0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_run_outlives_its_server_and_says_so_soon(yard: Path, number: int) -> None:
    """About 3 and 4 seconds late on a quiet machine."""
    name = f"alone-{number}"
    driver = start(yard, name, "synthesis.seconds=0.01", f"seed={number}")
    wait_until(lambda: titles(yard, name) >= {"round 1 · synthesize"}, 60)
    (server,) = processes_of(yard)
    os.kill(server, number)
    wait_until(lambda: any(event["kind"] == "finished" for event in RunFolder(yard, name).ledger), 60)
    ended = time.monotonic()
    assert 1 == finish(driver).count("Prefect does not show this run in full: ")
    assert 8 > time.monotonic() - ended
    if number == signal.SIGSTOP:
        os.kill(server, signal.SIGKILL)
    wait_until(lambda: not processes_of(yard), 8)


def test_a_given_server_that_is_not_there_costs_a_warning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert 1 == finish(start(root, "off")).count("without Prefect: PREFECT_API_URL is set, and http://127.0.0.1:9/api/health does not answer")


def stage(number: int, **changes: Any) -> Stage:
    return Stage(**{"verb": "verify", "component": Judge(), "inputs": {}, "round": 1, "ordinal": number, **changes})


def published(view: View, *stages: Stage, reused: bool = False) -> None:
    for one in stages:
        view.published(one, MANIFEST, reused=reused)


def begin(view: View, *stages: Stage) -> None:
    for one in stages:
        view.attempt(one, 1, {"pid": 7, "host": "here"}, attached=False)


def test_a_batch_of_many_stages_runs_at_once_and_all_are_recorded(site: Path) -> None:
    stages = [stage(number) for number in range(60)]

    def body(views: Sequence[View]) -> int:
        begin(views[0], *stages)
        running = threading.active_count()
        published(views[0], *stages)
        published(views[0], stage(0, purpose="evaluation"), reused=True)  # the same identity at another place
        return running

    assert 60 <= in_flow(RunFolder(site, "batch"), CONFIG, body, warn=pytest.fail)
    (flow,) = flows_of(site, "batch")
    tasks = tasks_of(site, flow)
    assert {one.title for one in stages} | {"round 1 · evaluation · verify"} == tasks.keys()
    assert ["Completed"] * 60 + ["Reused"] == sorted(state for state, _ in tasks.values())


def test_a_stage_that_fails_fails_its_task_and_the_flow_and_stops_the_others(site: Path) -> None:
    error = StageFailed("round 1 · verify", state="FAILED", reason="out of memory")

    def body(views: Sequence[View]) -> None:
        begin(views[0], stage(0, shard=(0, 2)), stage(0, shard=(1, 2)), stage(1))
        views[0].failed(stage(0, shard=(1, 2)), 1, error)
        raise error

    with pytest.raises(StageFailed) as raised:
        in_flow(RunFolder(site, "failing"), CONFIG, body, warn=pytest.fail)
    assert error is raised.value
    (flow,) = flows_of(site, "failing")
    assert ("FAILED", str(error)) == (flow["state"]["type"], flow["state"]["message"])
    tasks = tasks_of(site, flow)
    assert {"round 1 · verify": "Failed", "round 1 · verify #2": "Cancelled"} == {title: state for title, (state, _) in tasks.items()}
    assert "out of memory" in tasks["round 1 · verify"][1]


def test_ctrl_c_cancels_the_flow_and_comes_through(site: Path) -> None:
    def body(views: Sequence[View]) -> None:
        begin(views[0], stage(0))
        views[0].closed("detached")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_flow(RunFolder(site, "detached"), CONFIG, body, warn=pytest.fail)
    (flow,) = flows_of(site, "detached")
    assert ("CANCELLED", "detached") == (flow["state"]["type"], flow["state"]["message"])
    assert {"round 1 · verify": ("Cancelled", "the driver let go of it: detached")} == tasks_of(site, flow)


def test_sigterm_reaches_the_command_line_and_not_prefect(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        in_flow(RunFolder(site, "term"), CONFIG, lambda views: os.kill(os.getpid(), signal.SIGTERM), warn=pytest.fail)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [signal.SIGTERM] == heard


def breaks(*_: Any, **__: Any) -> Any:
    raise RuntimeError("Prefect's own")


@pytest.mark.parametrize(
    ("where", "views"),
    [("_import_prefect", 0), ("crash_left_behind", 1), ("task_of", 1), ("Ending.of", 1), ("send_events", 1)],
    ids=lambda value: str(value),
)
def test_wherever_prefect_breaks_the_body_is_called_once_and_its_result_returned(
    site: Path, monkeypatch: pytest.MonkeyPatch, where: str, views: int
) -> None:
    monkeypatch.setattr(f"ratchet.flows.prefect_flow.{where}", breaks)
    warnings: list[str] = []
    calls: list[int] = []

    def body(given: Sequence[View]) -> str:
        calls.append(len(given))
        run = RunFolder(site, f"broken-{where}")
        for view in given:
            view.opened(run, CONFIG)
            begin(view, stage(0), stage(1))
            published(view, stage(0), stage(1))
        return "result"

    assert "result" == in_flow(RunFolder(site, f"broken-{where}"), CONFIG, body, warn=warnings.append)
    assert ([views], 1) == (calls, len(warnings)), warnings
    assert "RuntimeError: Prefect's own" in warnings[0]


def test_what_prefect_lost_is_told_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_flow, "RECORDS_S", 1.0)

    def body(views: Sequence[View]) -> None:
        lost = Ticket("round 1 · lost", "verify", lambda lines: None, task_run=uuid.uuid4(), state=Ending("Completed", "made").state())
        views[0].tickets.append(lost)  # type: ignore[attr-defined]

    in_flow(RunFolder(site, "lossy"), CONFIG, body, warn=pytest.fail)
    assert {"round 1 · lost": ("Completed", "made")} == tasks_of(site, flows_of(site, "lossy")[0])


def test_a_run_in_other_hands_is_not_shown_nor_is_its_drivers_flow_touched(root: Path) -> None:
    run = RunFolder(root, "held")

    def body(views: Sequence[View]) -> None:
        assert [] == list(views)
        Lease.take(run)

    with Lease.take(run), pytest.raises(RunHeld):
        in_flow(run, CONFIG, body, warn=pytest.fail)
    assert [] == processes_of(root)


def test_the_environment_and_logging_are_the_users_again(site: Path) -> None:
    import logging

    before = dict(os.environ), logging.getLogger().handlers[:], logging.getLogger().level
    in_flow(RunFolder(site, "guest"), CONFIG, lambda views: None, warn=pytest.fail)
    assert before == (dict(os.environ), logging.getLogger().handlers[:], logging.getLogger().level)
