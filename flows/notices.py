"""Who is told how a firing ended: Prefect's own blocks (Slack, Teams, mail, any webhook), by `serve` itself.

Prefect's automations could send the same, but its server loses an event that comes while SQLite is locked, and the night's only alarm
may be that one. A notice is a file until somebody has taken it: nothing is lost with `serve`, with the server, or with the network.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ratchet.flows.deployments import office
from ratchet.flows.schedules import Book, Firing, Schedule
from ratchet.identity import canonical
from ratchet.infra.manifests import write_atomic

AGAIN_S = 60.0
"""After how long a notice that nobody took is sent again."""
STALE_S = 24 * 3600.0
"""After how long it is given up."""


@dataclass
class Notices:
    """What is still to be told."""

    book: Book
    say: Callable[[str], None]
    _thread: threading.Thread | None = None
    _next: float = 0.0
    _complained: set[str] = field(default_factory=set[str])

    @property
    def folder(self) -> Path:
        return self.book.folder / "notices"

    def owe(self, schedule: Schedule | None, firing: Firing, ended: str, message: str, page: str) -> None:
        """Have a schedule's block told of an attempt's end, `failed` or `finished`; the same end twice is one notice."""
        block = {"failed": schedule.on_failure, "finished": schedule.on_finish}.get(ended) if schedule else None
        if block is None:
            return
        notice = {"block": block, "subject": f"ratchet: {firing.run} {ended}", "body": f"{firing.run}: {message}\n{page}", "at": time.time()}
        write_atomic(self.folder / f"{quote(firing.run, safe='=,')}.{firing.begun:.0f}.json", canonical(notice))
        self._next = 0.0

    def tick(self, url: str) -> None:
        """Send what there is, in a thread of its own: a channel that does not answer holds up nothing."""
        if (self._thread and self._thread.is_alive()) or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + AGAIN_S
        if owed := sorted(self.folder.glob("*.json")):
            self._thread = threading.Thread(target=self._deliver, args=(url, owed), daemon=True, name="notices")
            self._thread.start()

    def _deliver(self, url: str, owed: list[Path]) -> None:
        for path in owed:
            notice = json.loads(path.read_text())
            try:
                _tell(self.book.root, url, notice["block"], notice["subject"], notice["body"])
            except Exception as error:  # noqa: BLE001 - a channel may fail in any way of its own, and is tried again
                if (words := f"{notice['block']} was not told: {str(error).strip() or type(error).__name__}") not in self._complained:
                    self._complained.add(words)
                    self.say(f"ratchet: {words}")
                if time.time() - notice["at"] < STALE_S:
                    continue
                self.say(f"{notice['subject']}: {notice['block']} is given up")
            path.unlink(missing_ok=True)


def _tell(root: Path, url: str, block: str, subject: str, body: str) -> None:
    """Hand a notice to a block; whatever it raises, nobody was told."""
    with office(root, url):
        from prefect.blocks.abstract import NotificationBlock
        from prefect.blocks.core import Block

        found = Block.load(block)
        assert isinstance(found, NotificationBlock)
        with found.raise_on_failure():
            found.notify(body, subject)
