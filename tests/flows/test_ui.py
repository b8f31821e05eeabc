"""`ratchet ui` shows every run, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.toys.drive import Warm, wait_until

MARK = "RATCHET_TEST_MARK"
NOBODY = "http://127.0.0.1:9/api"
"""A Prefect that is not there: its page has tests of its own."""


@dataclass
class Ui:
    process: "subprocess.Popen[bytes]"
    mark: str
    out: Path

    def said(self) -> str:
        return self.out.read_text()

    def url(self, name: str) -> str:
        wait_until(lambda: "Ctrl-C" in self.said() or self.process.poll() is not None, f"the pages; {self.said()}", 120)
        return next(line.split()[1] for line in self.said().splitlines() if line.split()[0] == name)

    def left(self) -> list[str]:
        """The command lines of all processes that descend from it, dead parents or not: they inherit its mark."""
        pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [_read(pid, "cmdline").replace("\0", " ") for pid in pids if f"{MARK}={self.mark}" in _read(pid, "environ")]


def _read(pid: str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def ui(root: Path, tmp_path: Path) -> Iterator[Any]:
    """Start `ratchet ui` on the root."""
    started: list[Ui] = []

    def start(**env: str) -> Ui:
        mark, out = uuid.uuid4().hex, tmp_path / "out"
        with out.open("wb") as file:
            command = [sys.executable, "-P", "-m", "ratchet.flows.cli", "ui", "--root", str(root)]
            process = subprocess.Popen(command, env={**os.environ, MARK: mark, **env}, stdout=file, stderr=file)
        started.append(Ui(process, mark, out))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_pages_show_every_run_and_end_with_a_kill(ratchet: Warm, root: Path, ui: Any) -> None:
    assert 0 == ratchet.run("recipe=rest_em", "tracker=null", "--name", "untracked", root=root).code
    assert 0 == ratchet.run("recipe=rest_em", "tracker=mlflow", "tracker.uri=http://127.0.0.1:9", "--name", "away", root=root).code
    driver = next(
        path for path in root.glob("away/ledger/*.json") if '"kind":"driver"' in path.read_text()
    )  # the server it was told of is gone for good
    driver.write_text(driver.read_text().replace('"http://127.0.0.1:9"', "null"))
    page = ui(PREFECT_API_URL=NOBODY)
    url = page.url("MLflow")
    wait_until(lambda: "away" in _complete(url), "the run in MLflow", 60)
    assert ["away", "round 0 · away", "round 1 · away", "round 2 · away"] == sorted(run["info"]["run_name"] for run in _search(url))
    parent = _complete(url)["away"]
    assert b"\x89PNG" == get(f"{url}/get-artifact?path=curves.png&run_uuid={parent}")[:4]
    assert 4 == len(page.left()), page.left()
    page.process.kill()
    page.process.wait()
    wait_until(lambda: not page.left(), f"the end of {page.left()}", 15)


def _search(url: str) -> Any:
    body = json.dumps({"experiment_ids": ["1"], "max_results": 50}).encode()
    request = urllib.request.Request(f"{url}/api/2.0/mlflow/runs/search", data=body, headers={"Content-Type": "application/json"})
    try:
        return json.loads(get(request)).get("runs", [])  # type: ignore[arg-type]
    except urllib.error.HTTPError:  # nothing was ingested yet
        return []


def _complete(url: str) -> dict[str, str]:
    """Name → id of the runs that are shown to their ledger's end."""
    return {run["info"]["run_name"]: run["info"]["run_id"] for run in _search(url) if "ratchet.ledger" in [tag["key"] for tag in run["data"]["tags"]]}


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_it_ends_well_when_asked_to(root: Path, ui: Any) -> None:
    (root / ".ratchet").mkdir()
    page = ui(RATCHET_PREFECT_GRACE_S="0")
    assert b"<html" in get(page.url("MLflow"))
    assert b"<html" in get(page.url("Prefect"))
    page.process.send_signal(signal.SIGTERM)
    assert 0 == page.process.wait(timeout=20)
    wait_until(lambda: not page.left(), f"the end of {page.left()}", 15)


def test_a_tracking_server_of_the_users_is_only_named(root: Path, ui: Any) -> None:
    (root / ".ratchet").mkdir()
    page = ui(PREFECT_API_URL=NOBODY, MLFLOW_TRACKING_URI="http://mlflow.example")
    assert "http://mlflow.example" == page.url("MLflow")
    assert 1 == len(page.left())


def test_a_server_that_cannot_start_says_why(root: Path, ui: Any) -> None:
    (root / ".ratchet").mkdir()
    (root / ".ratchet" / "mlflow.db").write_text("no database at all, but long enough to be taken for the header of one")
    page = ui(PREFECT_API_URL=NOBODY)
    assert 1 == page.process.wait(timeout=120)
    assert "file is not a database" in page.said()
    wait_until(lambda: not page.left(), f"the end of {page.left()}", 15)


def test_a_root_without_runs_is_the_users_to_mend(ratchet: Warm, tmp_path: Path) -> None:
    done = ratchet("ui", root=tmp_path)
    assert 2 == done.code
    assert f"there are no runs under {tmp_path} yet" in done.err
