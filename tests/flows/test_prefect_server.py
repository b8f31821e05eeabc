"""The project's Prefect server lives exactly as long as somebody holds it, however anybody dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.flows import prefect_server
from ratchet.flows.prefect_server import answers, hold

HOLDER = """
import os, sys, time
from pathlib import Path
from ratchet.flows.prefect_server import hold
with hold(Path(sys.argv[1]), lambda text: print("WARNED", text)) as url:
    if os.fork() == 0:  # a worker of a component's
        time.sleep(600)
        os._exit(0)
    print(url, flush=True)
    time.sleep(600)
"""


def processes_of(root: Path) -> list[int]:
    """The server processes of a root."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
        except OSError:
            continue  # it has ended since
        if b"--serve" in words and str(root).encode() in words:
            found.append(int(process.name))
    return found


def wait_until(so: Callable[[], Any], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not so():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(prefect_server.GRACE, "1")


@pytest.fixture
def holder(root: Path, tmp_path: Path) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start a process that holds the root's server, in a home of its own; with it, its forked worker ends."""
    started = []

    def start() -> "subprocess.Popen[str]":
        environment = {**os.environ, "HOME": str(tmp_path)}
        words = [sys.executable, "-P", "-c", HOLDER, str(root)]
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_holders_share_one_server_which_leaves_after_the_last_even_if_they_are_killed(root: Path, holder: Any, tmp_path: Path) -> None:
    one, other = holder(), holder()
    url = url_of(one)
    assert (url, 1) == (url_of(other), len(processes_of(root)))
    one.kill()
    time.sleep(2)  # longer than its grace
    assert answers(url)
    other.kill()  # its forked worker lives on, and holds nothing
    wait_until(lambda: not processes_of(root), 8)
    assert not answers(url)
    assert not (tmp_path / ".prefect").exists()


def test_a_killed_server_is_replaced_and_the_next_command_finds_the_new_one(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with hold(root, pytest.fail) as first:
        os.kill(processes_of(root)[0], signal.SIGKILL)
        wait_until(lambda: not processes_of(root), 5)
        with hold(root, pytest.fail) as second:
            assert first != second
            assert second is not None
            assert answers(second)
    began = time.monotonic()
    with hold(root, pytest.fail) as third:  # within its grace
        assert (second, True) == (third, time.monotonic() - began < 1)
    wait_until(lambda: not processes_of(root), 8)
    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "nonsense"])
def test_a_given_server_that_does_not_answer_is_named_and_done_without(root: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    warnings: list[str] = []
    with hold(root, warnings.append) as held:
        assert held is None
    assert url in warnings[0]
    assert [] == processes_of(root)


def broken_database(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "prefect.db").write_bytes(b"this is no database" * 1000)


def no_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the folder would be")


@pytest.mark.parametrize(("spoil", "says"), [(broken_database, "server.log"), (no_folder, "File exists")])
def test_a_server_that_cannot_start_costs_one_warning(root: Path, spoil: Callable[[Path], None], says: str) -> None:
    spoil(root / ".ratchet" / "prefect")
    warnings: list[str] = []
    with hold(root, warnings.append) as held:
        assert held is None
    assert [True] == [says in warning for warning in warnings]
    wait_until(lambda: not processes_of(root), 5)


def test_a_server_that_does_not_come_up_in_time_costs_one_warning_and_stays_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_server, "START_S", 0.5)
    warnings: list[str] = []
    with hold(root, warnings.append) as held:
        assert held is None
    assert ["did not answer within" in warning for warning in warnings] == [True]
    wait_until(lambda: not processes_of(root), 30)


def test_what_the_body_raises_passes_through(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(OSError, match="mine"), hold(root, lambda text: None):
        raise OSError("mine")


def test_nothing_imports_prefect_before_a_run_does() -> None:
    code = "import sys, ratchet.flows.session, ratchet.flows.prefect_flow, ratchet.flows.b_star; sys.exit('prefect' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode
