"""What runs leave on disk, for those who count: what was begun, what is at work, what was done."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.infra.claims import Claim
from ratchet.infra.executors import start_time
from ratchet.infra.ledger import Event
from ratchet.infra.runs import runs_under
from tests.chaos.watch import read


@dataclass(frozen=True)
class Traces:
    """Of the runs under a root."""

    root: Path
    beside: Path
    """Where the toys write down what they did."""

    def events(self, kind: str) -> dict[str, list[Event]]:
        """By run."""
        return {run.name: [event for event in run.ledger if event["kind"] == kind] for run in runs_under(self.root)}

    def claims(self) -> list[Claim]:
        with suppress(FileNotFoundError):
            return [Claim(folder) for folder in (self.root / ".ratchet" / "claims").iterdir()]
        return []

    def published(self) -> int:
        """How many artifacts there are on this machine."""
        with suppress(FileNotFoundError):
            return sum(1 for _ in (self.root / ".ratchet" / "objects").iterdir())
        return 0

    def at_work(self) -> Iterator[tuple[str, str, int]]:
        """Jobs that have begun work of some length and have not ended it: id, unit's identity, and process."""
        for claim in self.claims():
            job, spec = read(claim.folder / "job.json"), read(claim.folder / "spec.json")
            if job and spec and spec["verb"] in ("synthesize", "train") and not read(claim.attempt(job["attempt"]) / "exit.json"):
                with suppress(OSError, ValueError, IndexError):
                    start = json.loads((claim.attempt(job["attempt"]) / "starts").read_text().splitlines()[-1])
                    if start_time(start["pid"]):
                        yield job["job"]["job_id"], claim.folder.name, start["pid"]

    def draws(self) -> list[dict[str, Any]]:
        """Every piece of work that was done, in its order."""
        with suppress(FileNotFoundError):
            lines = [json.loads(line) for line in (self.beside / "draws").read_text().splitlines()]
            return sorted(lines, key=lambda line: line["at"])
        return []

    def starts(self) -> dict[str, int]:
        """How often each unit's work was begun, requeues too."""
        return {c.folder.name: sum(len(path.read_text().splitlines()) for path in c.folder.glob("attempts/*/starts")) for c in self.claims()}
