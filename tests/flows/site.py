"""A root with its `ratchet serve` and the Prefect server that this holds, as somebody uses them: by commands, and by what Prefect's pages ask."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from ratchet.flows import deployments
from ratchet.flows.schedules import Book, Firing
from ratchet.infra.runs import RunFolder
from tests.flows.test_prefect_server import processes_of
from tests.toys.drive import TOYS, Warm, wait_until

SHORT = (*TOYS, "recipe=rest_em", "rounds=1")
LIMIT_S = 90.0


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
        for patience in (1, 3, 0):  # 503 is its database's, busy with something else
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or not patience:
                    raise
                time.sleep(patience)
        raise AssertionError

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


def kill(firing: Firing) -> None:
    assert firing.process is not None
    os.kill(firing.process["pid"], signal.SIGKILL)


@contextmanager
def at_work(memory: Path, ratchet: Warm) -> Iterator[Site]:
    """A site, of which nothing is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="ratchet-", dir=memory, ignore_cleanup_errors=True) as folder:
        site = Site(Path(folder), ratchet)
        try:
            yield site
        finally:
            if site.process and site.process.poll() is None:
                site.end(signal.SIGTERM)
            for firing in site.book.open():
                if firing.process_lives():
                    kill(firing)
            for server in processes_of(site.root):
                os.kill(server, signal.SIGKILL)
            wait_until(lambda: not processes_of(site.root), "the server to end", 10)


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
