"""Runs and rounds as tables on a terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ratchet.flows.compose import science
from ratchet.flows.summary import RoundSummary, RunSummary

if TYPE_CHECKING:  # `show` has no need of them
    from ratchet.flows.comparison import Comparison
    from ratchet.flows.plan import Plan
    from ratchet.flows.sweep import Averaged


ACTIONS = {
    "promote": "promoted",
    "keep": "not promoted, the champion is kept",
    "stop": "not promoted, the run stops",
    "continue": "not promoted, the next round starts from it all the same",
}
"""What gates decide → as people say it."""


def console(*, stderr: bool = False) -> Console:
    """A console that is wide enough for a table when nobody looks at it.

    It keeps to the stream that there is now: while a stage is at work in this process, `sys.stderr` is the stage's log.
    """
    file = sys.stderr if stderr else sys.stdout
    found = Console(file=file, highlight=False)
    return found if found.is_terminal else Console(file=file, highlight=False, width=200)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def interval(metrics: Any, name: str) -> str:
    """`31.3% [26.3, 36.8]`: a rate and its confidence interval."""
    if name not in metrics:
        return "–"
    low, high = metrics.get(f"{name}.low"), metrics.get(f"{name}.high")
    return percent(metrics[name]) + (f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else "")


def largest_k(rounds: Sequence[RoundSummary]) -> int | None:
    """The largest k of the pass@k that was measured."""
    names = {name for row in rounds for name in row.metrics}
    return max((int(n.removeprefix("pass_at_")) for n in names if n.removeprefix("pass_at_").isdigit() and n != "pass_at_1"), default=None)


def rounds_table(rounds: Sequence[RoundSummary], title: str, headline: Sequence[str]) -> Table:
    """One row a round: how good, with which knobs, how balanced and diverse, how much was kept, how long. No column is empty."""
    table = Table(title=title, title_justify="left", title_style="bold")
    shown = rounds_columns(rounds, headline)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*cells)
    return table


def rounds_columns(rounds: Sequence[RoundSummary], headline: Sequence[str]) -> dict[str, list[str]]:
    """The same as plain text, column by column."""
    columns: dict[str, list[str]] = {"round": [str(row.round) for row in rounds]}
    columns |= {name: [of(row) for row in rounds] for name, of in _measures(headline).items()}
    return {name: cells for name, cells in columns.items() if set(cells) != {"–"}}


def compare_table(runs: Sequence[RunSummary], metrics: Sequence[str] = ()) -> Table:
    """What several runs measured, one column a run, aligned by round; first the settings in which they differ. One run: its rounds.

    `metrics` are what their evaluations say matters; pass@1 and the largest pass@k where nothing is said.
    """
    k = largest_k([row for run in runs for row in run.rounds])
    usual = ("pass_at_1", *((f"pass_at_{k}",) if k else ()))
    if len(runs) == 1 and set(metrics) <= set(usual):
        return rounds_table(runs[0].rounds, f"{runs[0].name}: {runs[0].status}, {runs[0].reason}", usual)
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column("round", justify="right")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    table.add_row("status", "", *(run.status for run in runs))
    for key, values in settings_that_differ(runs).items():
        table.add_row(Text(key, style="dim"), "", *(Text(value, style="dim") for value in values))
    table.add_section()
    rounds = sorted({row.round for run in runs for row in run.rounds})
    for name, of in _measures(metrics or usual).items():
        lines = [[next((of(row) for row in run.rounds if row.round == index), "–") for run in runs] for index in rounds]
        shown = [(index, line) for index, line in zip(rounds, lines, strict=True) if set(line) != {"–"}]
        for place, (index, line) in enumerate(shown):
            table.add_row(Text("" if place else name, style="bold"), str(index), *line)
        table.add_section()
    return table


def judged_text(row: RoundSummary) -> Text:
    """What the gates said of a round, a line each, and what the monitors drew attention to; empty if neither did."""
    marks = {"pass": ("✓", "green"), "fail": ("✗", "red"), "inconclusive": ("?", "yellow")}
    text = Text()
    if row.judged or row.warnings:
        text.append(f"round {row.round}" + (f": {ACTIONS[row.judged['action']]}" if row.judged else "") + "\n", style="bold")
    for said in row.judged["gates"] if row.judged else ():
        mark, style = marks[said["verdict"]]
        text.append(f"  {mark} {said['name']} {said['verdict']}", style=style)
        text.append(f": {said['words']}\n")
        for warning in said["warnings"]:
            text.append(f"    ! {warning}\n", style="yellow")
    for warning in row.warnings:
        text.append(f"  ! {warning}\n", style="yellow")
    return text


def verdicts_text(comparison: "Comparison") -> Text:
    """What is and what is not a difference, a sentence each, under the metric it is about."""
    marks = {"better": ("▲", "green"), "worse": ("▼", "red"), "open": ("○", "yellow"), "same": ("=", "dim"), "unknown": ("?", "dim")}
    text = Text()
    for metric in comparison.metrics:
        pairs = comparison.of(metric)
        if pairs:
            text.append(f"{metric_words(metric)}\n", style="bold")
        if why := comparison.why_nothing(metric):
            text.append(f"  ? nothing is compared: {why}\n", style="dim")
            continue
        for pair in pairs:
            mark, style = marks[pair.verdict]
            text.append(f"  {mark} ", style=style)
            text.append(f"{pair.words}\n", style="dim" if style == "dim" else "")
    for note in comparison.notes:
        text.append(f"  {note}\n", style="dim")
    return text


def metric_words(name: str) -> str:
    """A metric as people write it: `pass_at_4` → `pass@4`."""
    return name.replace("_at_", "@") if name.startswith(("pass_at_", "reward_at_")) else name.replace("_", " ")


def _measures(metrics: Sequence[str]) -> dict[str, Callable[[RoundSummary], str]]:
    def measure(name: str) -> Callable[[RoundSummary], str]:
        return lambda row: interval(row.metrics, name)

    return {
        **{metric_words(name): measure(name) for name in metrics},
        "temperature": lambda row: _number(row.knobs.get("temperature")),
        "threshold": lambda row: _number(row.knobs.get("threshold")),
        "balance": lambda row: _number(row.balance, 3),
        "diversity": lambda row: _number(row.metrics.get("distinct_equations", row.metrics.get("distinct_answers")), 3),
        "kept": lambda row: "–" if row.kept is None else f"{row.kept:,}",
        "seconds": lambda row: f"{row.seconds:.0f}",
    }


def settings_that_differ(runs: Sequence[RunSummary]) -> dict[str, list[str]]:
    """Dotted key → its value in each run, for keys of the science that are not the same in all."""
    leaves = [dict(_leaves(science(run.config))) for run in runs]
    keys = dict.fromkeys(key for found in leaves for key in found if not key.startswith("recipe.step"))
    rows = {key: [str(found.get(key, "–")) for found in leaves] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path.removesuffix("._target_"), config.rsplit(".", 1)[-1] if path.endswith("._target_") else config


def sweep_table(cells: Sequence["Averaged"]) -> Table:
    """One row a point, one column a round: the mean over seeds and its 95% interval."""
    table = Table(title=f"{cells[0].metric}, mean over {len(cells[0].values)} seeds [95% interval]", title_justify="left") if cells else Table()
    rounds = sorted({cell.round for cell in cells})
    table.add_column("run")
    for index in rounds:
        table.add_column(f"round {index}", justify="right")
    for point in sorted({_words(cell.point) for cell in cells}):
        row = {cell.round: cell for cell in cells if _words(cell.point) == point}
        table.add_row(point, *(_mean(row.get(index)) for index in rounds))
    return table


def _words(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def _mean(cell: "Averaged | None") -> str:
    if cell is None:
        return "–"
    bounds = cell.interval
    return percent(cell.mean) + (f" [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else "")


def _number(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def runs_table(runs: Sequence[RunSummary]) -> Table:
    """One row a run."""
    table = Table()
    for name in ("run", "status", "rounds", "pass@1", "began", "what"):
        table.add_column(name, no_wrap=name == "run")
    for run in runs:
        last = run.rounds[-1] if run.rounds else None
        table.add_row(
            run.name,
            Text(run.status, style={"finished": "green", "failed": "red", "running": "cyan"}.get(run.status, "yellow")),
            f"{last.round if last else 0} of {run.rounds_wanted}",
            interval(last.metrics, "pass_at_1") if last else "–",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.began)),
            run.reason,
        )
    return table


def stages_table(run: RunSummary) -> Table:
    """One row a stage: its rows, time, attempts and jobs."""
    table = Table(title="stages", title_justify="left", title_style="bold")
    for name in ("stage", "artifact", "digest", "rows", "seconds", "attempts", "jobs"):
        table.add_column(name, no_wrap=True)
    for stage in run.stages:
        jobs = sorted({str(a["job"].get("job_id") or a["job"].get("pid")) for a in stage.attempts})
        tries = sum(a["kind"] == "attempt" for a in stage.attempts)
        state = stage.digest[:8] if stage.digest else Text("failed" if stage.failure else "missing", style="red")
        table.add_row(
            stage.title,
            stage.identity[:8],
            state,
            f"{stage.rows:,}" if stage.rows else "",
            f"{stage.seconds:.1f}",
            "shared" if stage.shared else str(tries),
            " ".join(jobs[:4]) + (" …" if len(jobs) > 4 else ""),
        )
    return table


def plan_table(plan: "Plan") -> Table:
    """One row a stage: its fate and why."""
    table = Table()
    table.add_column("stage", no_wrap=True)
    table.add_column("fate")
    table.add_column("why")
    for line in plan.lines:
        style = {"reuse": "green", "run": "yellow", "unknown": "dim"}[line.fate]
        table.add_row(line.title, Text(line.fate, style=style), line.why + (f"\n{line.warning}" if line.warning else ""))
    return table
