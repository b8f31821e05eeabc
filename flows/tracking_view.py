"""MLflow beside a driver: after every round, and at the end, a thread brings it up to date. The run never waits for it."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.flows.build import build
from ratchet.flows.compose import Config
from ratchet.flows.driver import View
from ratchet.infra.ledger import Event
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import Store
from ratchet.infra.stores import open_store
from ratchet.infra.tracking import TrackerAway

END_S = 30.0
"""How long the end of a run waits for an MLflow that is at work."""
SHORT_S = 3.0
"""The same when the user wants out, or MLflow is away."""


class TrackingView(View):
    """Ingests the ledger in the background; several rounds that ended meanwhile are one ingest."""

    def __init__(self, tracker: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        self.tracker = build(tracker, "tracker")
        self.warn = warn
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.root = Path()
        self._trouble: Exception | None = None
        self._told = False

    def opened(self, run: RunFolder, config: Config) -> None:
        # Its own folder object: a ledger keeps what it has read, and the driver goes on writing to the other one.
        mine = RunFolder(run.root, run.name)
        self.root = run.root
        store = open_store(config.get("store"), run.state)
        self._thread = threading.Thread(target=self._work, args=(mine, store), daemon=True, name="tracking")
        self._wake.set()
        self._thread.start()

    def advanced(self, event: Event) -> None:
        self._wake.set()

    def closed(self, reason: str) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._wake.set()
        patient = reason != "detached" and not self._trouble and self.tracker.answers(self.root)
        self._thread.join(END_S if patient else SHORT_S)
        if self._thread.is_alive():
            self.warn("MLflow is behind: it is still being written. The same command again brings it up to date.")
        elif isinstance(self._trouble, TrackerAway):
            self.warn("MLflow is behind. The same command again brings it up to date.")

    def _work(self, run: RunFolder, store: Store) -> None:
        over = False
        while not over:
            self._wake.wait()
            self._wake.clear()
            over = self._over.is_set()
            try:
                self.tracker.ingest(run, store, driven=not over)
                self._trouble = None
            except Exception as error:  # noqa: BLE001 - the boundary of a view: whatever happens to it, the run goes on
                self._trouble = error
                self._tell()

    def _tell(self) -> None:
        """Say once what is the matter."""
        if not self._told:
            self._told = True
            said = str(self._trouble) if isinstance(self._trouble, RatchetError) else f"MLflow: {self._trouble!r}"
            self.warn(f"{said}\n  The run goes on; what MLflow missed is written at the next contact.")
