"""Workers that can be killed: order, time, memory, death, no orphans."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ratchet.components.verification.workers import Reply, Workers
from ratchet.errors import StageFailed

SERVANT = """
import json, os, sys, time
from ratchet.components.verification.workers import connection_to_caller, requests_on

connection = connection_to_caller(sys.argv[1:])
for request in requests_on(connection):
    if "sleep" in request:
        time.sleep(request["sleep"])
    if "eat_mb" in request:
        eaten = b"x" * (request["eat_mb"] << 20)
        time.sleep(60)
    if "die" in request:
        os._exit(1)
    connection.send_bytes(json.dumps(os.getpid()).encode())
"""


@pytest.fixture
def servant(tmp_path, monkeypatch):
    (tmp_path / "servant.py").write_text(SERVANT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "servant"


def workers_of(module, count=2, limit_s=30.0, memory_mb=None):
    return Workers(module=module, count=count, limit_s=limit_s, memory_mb=memory_mb)


def gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_replies_come_in_the_order_of_the_requests_from_workers_that_live_on(servant):
    with workers_of(servant) as workers:
        first = list(workers.replies([{"sleep": 0.3}, {}, {}, {}]))
        second = list(workers.replies([{}, {}]))
    assert first[0] != first[1] == first[2] == first[3]  # the slow one holds one worker, the other does the rest
    assert {reply.value for reply in second} <= {reply.value for reply in first}


def test_a_request_that_takes_too_long_costs_its_worker_only(servant):
    with workers_of(servant, limit_s=0.5) as workers:
        replies = list(workers.replies([{}, {"sleep": 60}, {}]))
    assert [None, "timeout", None] == [reply.lost for reply in replies]


def test_a_request_that_takes_too_much_memory_costs_its_worker_only(servant):
    with workers_of(servant, memory_mb=200) as workers:
        replies = list(workers.replies([{}, {"eat_mb": 300}, {}]))
    assert [None, "crashed", None] == [reply.lost for reply in replies]


def test_a_worker_that_dies_costs_its_request_only(servant):
    with workers_of(servant, count=1) as workers:
        replies = list(workers.replies([{}, {"die": 1}, {"die": 1}, {}]))
    assert [None, "crashed", "crashed", None] == [reply.lost for reply in replies]
    assert replies[0].value != replies[3].value


def test_a_worker_killed_from_outside_while_idle_is_replaced(servant):
    with workers_of(servant, count=1) as workers:
        (before,) = workers.replies([{}])
        os.kill(before.value, signal.SIGKILL)
        replies = list(workers.replies([{}, {}]))
    assert None is replies[1].lost


def test_no_worker_outlives_its_use_even_if_the_replies_are_not_all_taken(servant):
    with workers_of(servant) as workers:
        reply = next(workers.replies([{}, {"sleep": 60}, {"sleep": 60}]))
    assert gone(reply.value)


def test_a_worker_that_cannot_start_fails_the_stage_with_what_it_said(tmp_path, monkeypatch):
    (tmp_path / "servant.py").write_text("raise ImportError('no such vendor')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StageFailed, match=r"(?s)did not start.*no such vendor"), workers_of("servant") as workers:
        list(workers.replies([{}]))


def test_nothing_asked_starts_nothing(servant):
    with workers_of(servant) as workers:
        assert [] == list(workers.replies([]))
        assert Reply() == Reply(value=None, lost=None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the child of a dead parent")
@pytest.mark.parametrize("request_", [{}, {"sleep": 600}], ids=["idle", "busy"])
def test_a_worker_dies_with_a_caller_that_is_killed(servant, tmp_path, request_):
    caller = textwrap.dedent(f"""
        import time
        from ratchet.components.verification.workers import Workers
        workers = Workers(module="servant", count=1, limit_s=600, memory_mb=None)
        print(next(workers.replies([{{}}])).value, flush=True)
        list(workers.replies([{request_}]))
        time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-P", "-c", caller], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    time.sleep(0.2)
    assert not gone(pid, within_s=0.1)
    process.kill()
    process.wait()
    process.stdout.close()
    assert gone(pid)
