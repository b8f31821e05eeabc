"""What a run shows while it goes: rounds, stages, rows a second. On a terminal it stands still and updates; in a log it is lines."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ratchet.artifacts import Manifest
from ratchet.champions import headline_of
from ratchet.errors import StageFailed
from ratchet.flows.compose import Config
from ratchet.flows.driver import View
from ratchet.flows.monitors import Reported, warnings_of
from ratchet.flows.tables import interval, metric_words
from ratchet.infra.claims import Claim
from ratchet.infra.executors import JobRecord
from ratchet.infra.ledger import Event
from ratchet.infra.runs import RunFolder
from ratchet.stages import Stage


class ProgressView(View):
    """Live progress on standard error."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False, redirect_stderr=False)
        self.running: dict[str, tuple[Stage, Path, float]] = {}
        self.queue: dict[str, str] = {}
        """Stage → how the executor describes its job."""
        self.batch: set[str] = set()
        self.rounds: Any = None
        self.stages: Any = None
        self.state: Path | None = None
        self.headline = "pass_at_1"
        self.made = self.reused = 0
        self.reported: list[Reported] = []
        """What the round's stages reported."""
        self._over = threading.Event()

    def opened(self, run: RunFolder, config: Config) -> None:
        self.state = run.state
        self.headline = headline_of(config)[0]
        self.console.print(f"[bold]{run.name}[/bold]  {config['recipe']['name']}, {config['rounds']} rounds, seed {config['seed']}, under {run.root}")
        self.rounds = self.bars.add_task("rounds", total=config["rounds"] + 1, note="")
        self.stages = self.bars.add_task("stage", total=None, note="")
        self.bars.start()
        threading.Thread(target=self._watch, daemon=True, name="progress").start()

    def begins(self, round: int, of: int) -> None:
        self.made = self.reused = 0
        self.reported.clear()
        self.bars.update(self.rounds, description=f"round {round} of {of}", completed=round)

    def asked(self, stages: Sequence[Stage]) -> None:
        units = [unit for stage in stages for unit in (stage.shards() or [stage])]
        self.batch = {unit.identity for unit in units}
        self.bars.reset(self.stages, total=len(units), description=stages[0].verb, note="")

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None:
        assert self.state is not None
        self.running[stage.identity] = (stage, Claim(self.state / "claims" / stage.identity).attempt(number), time.monotonic())
        if attached:
            self.console.print(f"  attached to {stage.title} (job {record.get('job_id') or record.get('pid')})")

    def seen(self, stage: Stage, words: str) -> None:
        self.queue[stage.identity] = words

    def lost(self, stage: Stage, number: int, words: str) -> None:
        self.running.pop(stage.identity, None)
        self.console.print(f"  {stage.title}: attempt {number} was lost ({words}); beginning it again")

    def said(self, text: str) -> None:
        self.console.print(f"  {text}", style="yellow", markup=False)

    def waiting(self, stage: Stage) -> None:
        self.console.print(f"  {stage.title}: another run is making it; waiting")

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None:
        self.running.pop(stage.identity, None)
        self.queue.pop(stage.identity, None)
        if stage.identity in self.batch:
            self.bars.advance(self.stages)
        if stage.shard is None:
            self.reused += reused
            self.made += not reused
            self.reported.append((stage.verb, stage.title, manifest.metrics))

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None:
        self.running.pop(stage.identity, None)

    def judged(self, event: Event) -> None:
        for said in event["gates"]:
            if said["verdict"] != "pass" or said["warnings"]:
                style = "red" if said["verdict"] == "fail" else "yellow"
                words = "; ".join([said["words"], *said["warnings"]])
                self.console.print(f"  gate {said['name']} {said['verdict']}: {words}", style=style, markup=False)

    def advanced(self, event: Event) -> None:
        for warning in warnings_of(self.reported):
            self.console.print(f"  {warning}", style="yellow", markup=False)
        knobs = "".join(f"  {name} {value:g}" for name, value in event["knobs"].items())
        note = f"  ({event['note']})" if event["note"] else ""
        measured = f"{metric_words(self.headline)} {interval(event['metrics'], self.headline)}"
        stages = f"{self.made} stages made, {self.reused} reused"
        self.console.print(f"  round {event['round']}: {measured}{knobs}  {stages}{note}")

    def closed(self, reason: str) -> None:
        self._over.set()
        self.bars.stop()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            rows = 0.0
            for _, folder, began in list(self.running.values()):
                with suppress(FileNotFoundError, ValueError):
                    import json

                    said = json.loads((folder / "progress.json").read_text())
                    rows += said["rows"] / max(time.monotonic() - began, 0.1)
            states = Counter(words for words in list(self.queue.values()) if words)
            queue = ", ".join(f"{count} {words}" for words, count in states.most_common(2))
            note = "  ".join(part for part in (f"{rows:,.0f} rows/s" if rows else "", queue) if part)
            with suppress(KeyError):
                self.bars.update(self.stages, note=note)
