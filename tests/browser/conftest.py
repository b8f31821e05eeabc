"""A real browser on the pages that `ratchet ui` serves, without a network: it finds 127.0.0.1 and nothing else.

The pages show two runs: `gated`, whose gates promote its first round and then keep it as the champion, and `mended`, a fork of it after
that round, all of whose rounds are promoted.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Error, Locator, Page, expect, sync_playwright

from ratchet.flows.prefect_server import GRACE, hold
from ratchet.flows.summary import RunSummary, summary_of
from ratchet.infra.runs import RunFolder
from tests.cluster.clusters import installing
from tests.flows.test_prefect_server import processes_of
from tests.flows.test_ui import MARK, Ui
from tests.toys.drive import HOUSE, Done, Warm, wait_until

CONFIGS = ("--config-dir", str(HOUSE / "tests" / "toys" / "configs"))
GATED = ("experiment=gated", "recipe=iterative_rft", "gates.split=test", "tracker=mlflow", "rounds=2", "training.falls=0.5")
MENDED = ("training.falls=0",)

ALONE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server")
PATIENCE_MS = 30_000
"""How long to wait for what a page shows: seconds on a quiet machine are many on a busy one."""

HERE = ("http://127.0.0.1:", "data:", "blob:", "about:")


@dataclass(frozen=True)
class Served:
    """The pages of a root, and what they are to show."""

    mlflow: str
    runs: str
    """Where `ratchet ui` says that the runs are."""
    prefect: str
    gated: RunSummary
    mended: RunSummary


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where the browser is; it is installed, by root, where it is missing."""
    if not shutil.which("chromium"):
        _install("chromium")
    return shutil.which("chromium") or pytest.fail("chromium was installed and is not on the path")


def _install(package: str) -> None:
    """Install a Debian package. Where that cannot be, skip with the reason; in CI, where it can, fail."""
    refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    if os.geteuid() != 0:
        refuse(f"{package} is not installed, and only root can do so; this is user {os.geteuid()}")
    script = '. "$1"; need_packages --no-install-recommends -- "$2"'
    command = ["bash", "-c", script, "install", str(HOUSE / "infra/slurm/daemons.sh"), package]
    with installing():
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        refuse(done.stderr.strip())


@pytest.fixture(scope="module")
def served(ratchet: Warm, memory: Path) -> Iterator[Served]:
    """Both runs, made under Prefect and tracked in MLflow, and their pages."""
    with tempfile.TemporaryDirectory(prefix="ratchet-", dir=memory, ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(GRACE, "1")
        root = Path(folder)
        with hold(root, pytest.fail):
            _succeed(ratchet("run", *CONFIGS, *GATED, "--name", "gated", root=root))
            with _ui(root) as ui:
                _succeed(ratchet("fork", "gated", "--round", "1", "--as", "mended", *CONFIGS, *MENDED, root=root))
                gated, mended = (summary_of(RunFolder(root, name)) for name in ("gated", "mended"))
                assert [["promote", "keep"], ["promote", "promote"]] == [_actions(gated), _actions(mended)]
                yield Served(mlflow=ui.url("MLflow"), runs=_later(ui, "runs"), prefect=ui.url("Prefect"), gated=gated, mended=mended)
        wait_until(lambda: not processes_of(root), "the end of the pages' servers", 20)


def _later(ui: Ui, name: str) -> str:
    """An address that is said once MLflow is up to date."""
    wait_until(lambda: f"  {name} " in ui.said(), f"the address of the {name}", 60)
    return ui.url(name)


def _succeed(done: Done) -> None:
    assert 0 == done.code, done.err


def _actions(run: RunSummary) -> list[str]:
    return [row.judged["action"] for row in run.rounds if row.judged]


@contextmanager
def _ui(root: Path) -> Iterator[Ui]:
    """`ratchet ui` on a root."""
    mark, out = uuid.uuid4().hex, root / "ui.out"
    command = [sys.executable, "-P", "-m", "ratchet.flows.cli", "ui", "--root", str(root)]
    with out.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=file, stderr=file)
    try:
        yield Ui(process, mark, out)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def user(chromium: str) -> Iterator[BrowserContext]:
    """A browser that finds this machine and nothing else, with one cache for all tests: the pages are megabytes of script."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ALONE)
        context = browser.new_context(viewport={"width": 1920, "height": 1080}, locale="en-US")
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield context
        browser.close()


@pytest.fixture
def page(user: BrowserContext, tmp_path: Path) -> Iterator[Page]:
    """An empty tab of a user who never saw any of these pages. Nothing that it shows may ask for anything that is not on this machine."""
    asked: list[str] = []
    tab = user.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.add_locator_handler(tab.get_by_role("dialog", name="new Model Registry UI"), _dismiss)
    yield tab
    with suppress(Error):  # the tab shows no page of a server
        tab.evaluate("localStorage.clear()")  # where the pages keep what was unfolded, filtered and closed
    tab.close()
    assert [] == sorted({url for url in asked if not url.startswith(HERE)}), "the page asked for what is not on this machine"


def _dismiss(greeting: Locator) -> None:
    """Close what MLflow shows on a first visit."""
    greeting.get_by_role("button", name="Close").click()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Keep a picture of what the browser showed when a test failed, and say where it is."""
    report = yield
    if call.when == "call" and report.failed and (page := item.funcargs.get("page")):
        path = item.funcargs["tmp_path"] / "page.png"
        with suppress(Error):  # the browser itself is gone
            page.screenshot(path=path)
            report.longrepr.addsection("what the browser showed", f"{page.url}\n{path}")
    return report
