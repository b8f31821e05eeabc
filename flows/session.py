"""One turn of `ratchet run`: the views around a driver, and the table at the end."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ratchet.champions import headline_of
from ratchet.errors import RatchetError
from ratchet.flows.driver import Outcome, View, check, drive
from ratchet.flows.progress import ProgressView
from ratchet.flows.summary import summary_of
from ratchet.flows.tables import console, rounds_table
from ratchet.infra.runs import RunFolder


def session(run: RunFolder, config: dict[str, Any], *, overrides: Sequence[str], prefect: bool, as_json: bool) -> int:
    """Drive a run under its views, then print its rounds and where to look; returns the exit code."""
    check(config)
    say = console(stderr=True)

    def warn(text: str) -> None:
        say.print(text, style="yellow", markup=False)

    views: list[View] = [ProgressView(say)]
    if config.get("tracker"):
        from ratchet.flows.tracking_view import TrackingView

        views.append(TrackingView(config["tracker"], warn=warn))

    def body(more: Sequence[View]) -> Outcome:
        return _closing([*more, *views], lambda all_views: drive(run, config, overrides=overrides, views=all_views))

    if prefect:
        say.print("starting the flow's server (--no-prefect does without it) …", style="dim")
        from ratchet.flows.prefect_flow import in_flow

        outcome = in_flow(run, config, body, warn=warn)
    else:
        outcome = body([])
    _report(run, outcome, as_json=as_json)
    return 0


def _closing(views: Sequence[View], work: Callable[[Sequence[View]], Outcome]) -> Outcome:
    """Do the work, and tell the views how it ended, whichever way."""
    reason = "detached"
    try:
        outcome = work(views)
        reason = f"stopped: {outcome.stopped}" if outcome.stopped else "finished"
        return outcome
    except RatchetError as error:
        reason = f"failed: {error}"
        raise
    finally:
        for view in views:
            view.closed(reason)


def _report(run: RunFolder, outcome: Outcome, *, as_json: bool) -> None:
    summary = summary_of(run)
    if as_json:
        sys.stdout.write(json.dumps(asdict(summary), indent=2, ensure_ascii=False) + "\n")
        return
    out = console()
    out.print(rounds_table(summary.rounds, run.name, headline_of(summary.config)))
    if outcome.stopped:
        out.print(f"[yellow]stopped:[/yellow] {outcome.stopped}")
    for label, command in where_to_look(run).items():
        out.print(f"  {label}: [bold]{command}[/bold]")


def where_to_look(run: RunFolder) -> Mapping[str, str]:
    """What a user types next."""
    root = "" if run.root.name == "runs" and run.root.parent.samefile(".") else f" --root {run.root}"
    return {"every stage and attempt": f"ratchet show {run.name}{root}", "curves in MLflow, flow in Prefect": f"ratchet ui{root}"}
