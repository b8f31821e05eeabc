"""Schedules fire by themselves against a real Prefect server, and whatever is killed, every firing ends once, as it would have."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ratchet.flows import deployments, prefect_server
from ratchet.flows.schedules import Book, Firing
from ratchet.infra.runs import RunFolder
from tests.flows.test_prefect_server import processes_of
from tests.toys.drive import TOYS, Warm, wait_until

SHORT = (*TOYS, "recipe=rest_em", "rounds=1")
SLOW = "synthesis.seconds=0.03"
"""Makes a run last some seconds."""
LONG = "synthesis.seconds=0.5"

LIMIT_S = 90.0
AGES_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class Site:
    """A root with its `ratchet serve`."""

    def __init__(self, root: Path, ratchet: Warm) -> None:
        self.root, self.ratchet, self.book = root, ratchet, Book(root)
        self.process: subprocess.Popen[bytes] | None = None
        self.said = root / "serve.log"

    def serve(self, **environment: str) -> None:
        words = [sys.executable, "-P", "-m", "ratchet.flows.cli", "serve", "--root", str(self.root)]
        heard = len(self.words())
        with self.said.open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, **environment})
        wait_until(lambda: "serving" in self.words()[heard:], "serve to meet its server", LIMIT_S)

    def words(self) -> str:
        return self.said.read_text() if self.said.exists() else ""

    def end(self, how: int) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(20)

    def schedule(self, name: str, *words: str) -> str:
        """Make a schedule, or replace it; the id of its deployment once Prefect has it as it is now."""
        done = self.ratchet("schedule", name, *SHORT, *words, root=self.root)  # of two options the last one counts
        assert 0 == done.code, done.err
        schedule = self.book.get(name)

        def there() -> Any:
            found = self.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
            same = [one for one in found if one["parameters"]["overrides"] == list(schedule.words)]
            return [one["id"] for one in same if one["description"] == deployments.deployment(schedule, "")["description"]]

        wait_until(there, f"the deployment {name}", LIMIT_S)
        return str(there()[0])

    def unschedule(self, name: str) -> None:
        assert 0 == self.ratchet("unschedule", name, root=self.root).code

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the API of the root's server says."""
        url = (self.root / ".ratchet" / "prefect" / "url").read_text()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"null")

    def press_run(self, deployment: str, *words: str) -> str:
        """Run, on a deployment's page, with what its form has then."""
        body = {"parameters": {"overrides": words}} if words else {}
        return str(self.ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"])

    def press_retry(self, flow_run: str) -> None:
        self.ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}})

    def state(self, flow_run: str) -> tuple[str, str]:
        found = self.ask("GET", f"/flow_runs/{flow_run}")["state"]
        return found["name"], found["message"] or ""

    def begun(self, name: str, *, attempt: int = 1) -> Firing:
        """The firing of a schedule that is at work, once its run has a stage under way."""

        def ready() -> list[Firing]:
            mine = [firing for firing in self.book.open(name) if firing.process and firing.attempts >= attempt]
            return [firing for firing in mine if any(is_work(event, firing) for event in RunFolder(self.root, firing.run).ledger)]

        wait_until(ready, f"a firing of {name} to be at work", LIMIT_S)
        return ready()[0]

    def done(self, name: str, flow_run: str | None = None) -> list[Firing]:
        """The firings of a schedule that ended, first come first."""
        found = [self.book.firing(name, due_in(path)) for path in sorted(self.book.folder.glob(f"{name}/done/*.json"))]
        return [one for one in found if one and one.ended and (flow_run is None or one.flow_run == flow_run)]

    def ended(self, name: str, flow_run: str) -> Firing:
        """A firing, once it has ended."""
        wait_until(lambda: self.done(name, flow_run), f"{flow_run} of {name} to end", LIMIT_S)
        return self.done(name, flow_run)[0]


def is_work(event: dict[str, Any], firing: Firing) -> bool:
    """Whether a ledger's event says that this attempt at the firing has its driver make something."""
    return event["kind"] in ("attempt", "attached") and event["at"] > firing.begun


def due_in(path: Path) -> datetime:
    return datetime.fromisoformat(json.loads(path.read_text())["due"])


def turns(root: Path, run: str) -> list[tuple[float, float]]:
    """When each driver of a run had it in hand, from its first word to its last."""
    events = list(RunFolder(root, run).ledger)
    starts = [number for number, event in enumerate(events) if event["kind"] == "driver"]
    return [(events[a]["at"], events[b - 1]["at"]) for a, b in pairwise([*starts, len(events)])]


def kill(firing: Firing) -> None:
    assert firing.process is not None
    os.kill(firing.process["pid"], signal.SIGKILL)


@pytest.fixture(scope="module")
def site(memory: Path, ratchet: Warm) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ratchet-", dir=memory, ignore_cleanup_errors=True) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv(prefect_server.GRACE, "90")  # a killed `serve` finds its server again
        site = Site(Path(folder), ratchet)
        site.serve()
        yield site
        site.end(signal.SIGTERM)
        for firing in site.book.open():
            if firing.process_lives():
                kill(firing)
        for server in processes_of(site.root):
            os.kill(server, signal.SIGKILL)
        wait_until(lambda: not processes_of(site.root), "the server to end", 10)


def test_a_schedule_fires_by_itself_through_the_death_of_its_server_and_of_serve_and_never_twice_at_a_time(site: Site) -> None:
    site.schedule("tick", "--every", "4")

    def finished(since: datetime) -> list[Firing]:
        return [one for one in site.done("tick") if one.due > since and one.ended == "finished"]

    wait_until(lambda: len(finished(AGES_AGO)) >= 2, "two firings", LIMIT_S)

    for server in processes_of(site.root):
        os.kill(server, signal.SIGKILL)
    now = datetime.now(UTC)
    wait_until(lambda: finished(now), "a firing that was due after the server's death", LIMIT_S)
    assert "does not answer any more" in site.words()

    wait_until(lambda: site.book.open("tick"), "one to be at work", LIMIT_S)
    (last,) = site.book.open("tick")
    site.end(signal.SIGTERM)
    wait_until(lambda: not last.lives(site.root) and time.time() > last.due.timestamp() + 9, "its run to end, and two to be missed", LIMIT_S)
    site.serve()
    wait_until(lambda: finished(last.due), "what is made up for", LIMIT_S)
    site.unschedule("tick")
    made_up = finished(last.due)[0]
    gone = {one.ended for one in site.done("tick") if last.due < one.due < made_up.due}
    assert gone <= {"passed over: nobody served when it was due", f"passed over: {last.run} was at work when it was due"}
    assert (made_up.due - last.due).seconds >= 8
    assert "finished" == site.ended("tick", last.flow_run).ended

    wait_until(lambda: not site.book.open("tick"), "the last firing", LIMIT_S)
    done = finished(AGES_AGO)
    assert {0} == {(one.due - done[0].due).seconds % 4 for one in done}
    assert len(done) == len({RunFolder(site.root, one.run).opening()["config"]["seed"] for one in done})
    spans = sorted(span for one in done for span in turns(site.root, one.run))
    assert len(done) <= len(spans)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    for one in (done[0], done[-1]):
        assert ("Completed", "finished") == site.state(one.flow_run)
        assert one.run == site.ask("GET", f"/flow_runs/{one.flow_run}")["name"]


def test_a_run_goes_on_when_its_server_is_killed_and_ends_in_prefect_too(site: Site) -> None:
    pressed = site.press_run(site.schedule("through", "--every", "36000", SLOW))
    site.begun("through")
    for server in processes_of(site.root):
        os.kill(server, signal.SIGKILL)
    assert ("finished", 1) == (site.ended("through", pressed).ended, site.ended("through", pressed).attempts)
    assert ("Completed", "finished") == site.state(pressed)


def test_words_from_prefects_form_are_checked_like_the_command_lines_and_retry_on_its_page_is_the_same_run(site: Site, tmp_path: Path) -> None:
    told: list[bytes] = []
    own = Path(shutil.copytree(TOYS[1], tmp_path / "own"))
    deployment = site.schedule("edited", "--every", "36000", "--on-failure", webhook(site, told), "--config-dir", str(own))
    with pytest.raises(urllib.error.HTTPError, match="409"):
        site.press_run(deployment, "no override")
    pressed = site.press_run(deployment, "experiment=toy", "recipe=rest_em", "rounds=1", "task=mine")
    failed = site.ended("edited", pressed)
    state, message = site.state(pressed)
    assert ("failed", 2, "Failed") == (failed.ended, failed.code, state)
    assert "there is no task called 'mine'" in message
    wait_until(lambda: told, "the block to be told", LIMIT_S)
    assert f"{failed.run}: exit code 2: there is no task called 'mine'".encode() in told[0]
    shutil.copy(own / "task" / "sums.yaml", own / "task" / "mine.yaml")
    site.press_retry(pressed)
    wait_until(lambda: site.done("edited", pressed) and site.done("edited", pressed)[0].code == 0, "the retry to end", LIMIT_S)
    assert ("Completed", failed.run) == (site.state(pressed)[0], site.done("edited")[0].run)
    assert [failed.words] == [one.words for one in site.done("edited")]


def test_cancel_on_prefects_page_ends_the_run_and_ratchet_resume_goes_on_with_it(site: Site) -> None:
    pressed = site.press_run(site.schedule("stopped", "--every", "36000", SLOW))
    run = site.begun("stopped").run
    site.ask("POST", f"/flow_runs/{pressed}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert "cancelled" == site.ended("stopped", pressed).ended
    assert "Cancelled" == site.state(pressed)[0]
    assert not any(event["kind"] == "finished" for event in RunFolder(site.root, run).ledger)
    assert 0 == site.ratchet("resume", run, "--no-prefect", root=site.root, env={"RATCHET_TEST_HASTE": "1"}).code
    site.press_retry(pressed)
    wait_until(lambda: site.state(pressed)[0] == "Completed", "Prefect to see that it is finished", LIMIT_S)
    published = [event["identity"] for event in RunFolder(site.root, run).ledger if event["kind"] == "published"]
    assert len(published) == len(set(published)), "nothing was made twice"


def test_a_killed_run_is_brought_back_and_so_is_one_whose_serve_was_killed_too(site: Site) -> None:
    """First `serve` is killed and the run goes on; then the run is, without a hand by automation and `serve`; then both at once."""
    pressed = site.press_run(site.schedule("killed", "--every", "36000", LONG))
    first = site.begun("killed")
    site.end(signal.SIGKILL)
    assert first.process_lives()
    site.serve()
    kill(first)
    second = site.begun("killed", attempt=2)
    assert (first.run, first.words) == (second.run, second.words)
    site.end(signal.SIGKILL)
    kill(second)
    site.serve(RATCHET_TEST_HASTE="1")
    ended = site.ended("killed", pressed)
    assert ("finished", 0, 3) == (ended.ended, ended.code, ended.attempts)
    run = RunFolder(site.root, ended.run)
    assert (1, 1, 3) == tuple(sum(event["kind"] == kind for event in run.ledger) for kind in ("run", "finished", "driver"))
    states = [state["name"] for state in site.ask("GET", f"/flow_run_states/?flow_run_id={pressed}")]
    assert [2, 2] <= [states.count("Crashed"), states.count("AwaitingRetry")], states
    assert ["Pending", "Running", "Completed"] == states[-3:]
    assert ["killed"] == [one["name"] for one in site.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["killed"]}}})]


@pytest.mark.slow
def test_a_run_that_is_lost_with_its_machine_is_marked_and_scheduled_again_by_prefect_alone(site: Site) -> None:
    """Ten seconds without a heartbeat instead of ninety, and only Prefect's server lives."""
    site.end(signal.SIGTERM)
    site.serve(**{deployments.LOST_S: "10"})
    pressed = site.press_run(site.schedule("lost", "--every", "36000", LONG))
    firing = site.begun("lost")
    site.end(signal.SIGKILL)
    kill(firing)
    wait_until(lambda: "AwaitingRetry" == site.state(pressed)[0], "the automations to schedule it again", LIMIT_S)
    names = [state["name"] for state in site.ask("GET", f"/flow_run_states/?flow_run_id={pressed}")]
    assert ["Running", "Crashed", "AwaitingRetry"] == names[-3:]
    site.serve(RATCHET_TEST_HASTE="1")
    assert ("finished", 2) == (site.ended("lost", pressed).ended, site.ended("lost", pressed).attempts)


def webhook(site: Site, told: list[bytes]) -> str:
    """A block of Prefect's that tells this test; its name."""

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kind = site.ask("GET", "/block_types/slug/custom-webhook")
    (schema, *_) = site.ask("POST", "/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})
    data = {"name": "here", "url": f"http://127.0.0.1:{server.server_port}", "json_data": {"text": "{{subject}} {{body}}"}}
    common = {"name": "here", "block_type_id": kind["id"], "block_schema_id": schema["id"]}
    site.ask("POST", "/block_documents/", {**common, "data": data})
    return "custom-webhook/here"
