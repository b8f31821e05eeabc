"""The sections of a report that say what was measured: differences, rounds, curves, pass@k, diversity."""

from typing import Any

from ratchet.errors import InputError
from ratchet.flows import report_plots as plots
from ratchet.flows.comparison import Comparison, Pair, amount_words, budget, item_value, unit_of
from ratchet.flows.measured import Measured, Round
from ratchet.flows.report_parts import Section, figure_of, legend, number_words, sentence, table_of
from ratchet.flows.report_plots import Ink, Line
from ratchet.flows.statistics import is_rate, wilson
from ratchet.flows.tables import interval, metric_words, settings_that_differ

DIVERSITY = ("distinct_equations", "distinct_answers")
TAGS = {"better": "better", "worse": "worse", "open": "can't tell", "same": "same policy", "unknown": "not compared"}


def verdicts(comparison: Comparison) -> Section:
    told = []
    for metric in comparison.metrics:
        pairs = [{"verdict": pair.verdict, "tag": _tag(pair), "words": sentence(pair.words)} for pair in comparison.of(metric)]
        if why := comparison.why_nothing(metric):
            pairs = [{"verdict": "unknown", "tag": TAGS["unknown"], "words": sentence(f"nothing is compared: {why}")}]
        told += [{"metric": metric_words(metric), "pairs": pairs}] if pairs else []
    words = "Paired on the same held-out items, corrected for the number of comparisons."
    figures = [figure for metric in comparison.metrics if (figure := _forest(comparison, metric))]
    notes = [] if told else ["There is nothing to set against each other yet."]
    groups = [{"title": "", "figures": figures}] if figures else []
    return {"id": "differences", "title": "What is a difference, and what is not", "words": words, "verdicts": told, "groups": groups, "notes": notes}


def _tag(pair: Pair) -> str:
    tag = TAGS[pair.verdict]
    return {"better": "higher", "worse": "lower"}.get(tag, tag) if not pair.headline else tag


def _forest(comparison: Comparison, metric: str) -> dict[str, Any] | None:
    told = [(pair, pair.found) for pair in comparison.of(metric) if pair.found]
    if not told:
        return None
    rate = all(is_rate(found) for _, found in told)
    scale, unit = (100, "points") if rate else (1, metric_words(metric))
    names = [_meeting(pair, len(comparison.runs)) for pair, _ in told]
    rows = [(name, scale * f.difference, scale * f.low, scale * f.high, pair.verdict) for name, (pair, f) in zip(names, told, strict=True)]
    header = ["", "difference", "95% interval", "p", "p corrected", "gained", "lost", "items", "method"]
    numbers = [
        [name, f"{row[1]:+.1f}" if rate else f"{row[1]:+.3f}", f"{row[2]:.1f} to {row[3]:.1f}" if rate else f"{row[2]:.3f} to {row[3]:.3f}",
         f"{f.p:.2g}", f"{pair.p:.2g}", f.gained, f.lost, f.items, f.method]
        for name, row, (pair, f) in zip(names, rows, told, strict=True)
    ]  # fmt: skip
    alt = f"Differences in {metric_words(metric)}: " + "; ".join(
        f"{name} {row[1]:+.1f}, {row[2]:.1f} to {row[3]:.1f}" for name, row in zip(names, rows, strict=True)
    )
    svg = plots.forest(rows, xlabel=f"difference, {unit}")
    return figure_of(f"{metric_words(metric)}: differences with 95% intervals", svg, alt, table_of(header, numbers))


def _meeting(pair: Pair, runs: int) -> str:
    if pair.before.run is pair.after.run:
        return f"round {pair.after.index} − {pair.before.index}"
    return f"{_short(pair.after.run.name)}, {pair.at}" if runs > 2 else pair.at


def _short(name: str, most: int = 24) -> str:
    return name if len(name) <= most else "…" + name[-most + 1 :]


def rounds(comparison: Comparison) -> Section:
    tables = []
    differing = settings_that_differ([run.summary for run in comparison.runs]) if len(comparison.runs) > 1 else {}
    if differing:
        header = ["setting", *(run.name for run in comparison.runs)]
        tables.append(table_of(header, [[key, *values] for key, values in differing.items()], caption="settings that differ", words=True))
    tables += [_rounds_table(run) for run in comparison.runs]
    return {
        "id": "rounds",
        "title": "Rounds",
        "words": "The champion (by the gates, or by hand; without either, best by the first metric) is in bold. Costs add up from the start.",
        "tables": tables,
    }


def _rounds_table(run: Measured) -> dict[str, Any]:
    unit = unit_of([run], "seconds")
    columns: dict[str, list[str]] = {"round": [str(row.index) for row in run.rounds]}
    columns |= {metric_words(name): [interval(row.summary.metrics, name) for row in run.rounds] for name in run.headline}
    knobs = [name for name in ("temperature", "threshold") if any(name in row.summary.knobs for row in run.rounds)]
    columns |= {name: [number_words(row.summary.knobs.get(name)) for row in run.rounds] for name in knobs}
    columns["kept"] = ["–" if row.summary.kept is None else f"{row.summary.kept:,}" for row in run.rounds]
    columns["samples so far"] = [amount_words(row.cost.samples) for row in run.rounds]
    if any(row.cost.tokens for row in run.rounds):
        columns["trained tokens"] = [amount_words(row.cost.tokens) for row in run.rounds]
    columns[unit] = [amount_words(budget(row.cost, "seconds", unit)) for row in run.rounds]
    caption = f"{run.name}: {run.summary.status}, {run.summary.reason}"
    best = run.rounds.index(run.champion) if run.champion else None
    return table_of(list(columns), list(zip(*columns.values(), strict=True)), caption=caption, best=best)


def curves(comparison: Comparison) -> Section:
    runs = [run for run in comparison.runs if run.rounds]
    axes = ["round", *(by for by in ("samples", "tokens", "seconds") if _has(comparison, by))] if len(runs) > 1 else ["round"]
    groups = []
    for metric in comparison.metrics:
        figures = [_curve(comparison, metric, by) for by in axes]
        groups.append({"title": metric_words(metric) if len(axes) > 1 else "", "figures": figures})
    if len(axes) == 1:
        groups = [{"title": "", "figures": [figure for group in groups for figure in group["figures"]]}]
    words = "Bands and bars are 95% intervals. Over a budget a run stands by its last finished round, hence the steps."
    return {
        "id": "curves",
        "title": "Curves",
        "words": words if len(axes) > 1 else "Bands are 95% intervals.",
        "groups": groups,
        "legend": legend(runs),
    }


def _has(comparison: Comparison, by: Any) -> bool:
    try:
        unit_of(comparison.runs, by)
    except InputError:
        return False
    return True


def _curve(comparison: Comparison, metric: str, by: Any) -> dict[str, Any]:
    unit = unit_of(comparison.runs, by)
    lines, rows = [], []
    for number, run in enumerate(comparison.runs):
        points = []
        for row in run.rounds:
            m = row.summary.metrics
            if metric in m:
                x = row.index if by == "round" else budget(row.cost, by, unit)
                points.append((x, m[metric], m.get(f"{metric}.low"), m.get(f"{metric}.high")))
                rows.append([run.name, row.index, amount_words(x), interval(m, metric)])
        dash = plots.LINES[number // plots.SERIES % len(plots.LINES)]
        lines.append(Line(name=run.name, points=points, ink=Ink.series(number), dash=dash, step=by != "round"))
    rate = all(0 <= p[1] <= 1 for line in lines for p in line.points)
    ticks = sorted({p[0] for line in lines for p in line.points}) if by == "round" else ()
    ticks = ticks[:: max(1, -(-len(ticks) // 12))] if ticks else ()
    svg = plots.curves(lines, xlabel=unit, ylabel="", ticks=ticks, percent=rate)
    ends = "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines if line.points)
    title = metric_words(metric) if by == "round" else f"{metric_words(metric)} over {unit}"
    return figure_of(title, svg, f"{metric_words(metric)} over {unit}: {ends}", table_of(["run", "round", unit, metric_words(metric)], rows))


def pass_at_k(comparison: Comparison) -> Section | None:
    figures = [figure for run in comparison.runs if (figure := _pass_curves(run, len(comparison.runs) > 1))]
    if not figures:
        return None
    words = (
        "The chance that one of k sampled rollouts is right: how much there is to select from. One line a round, from early to late; "
        "k = 1 is the mean over samples, not the greedy answer."
    )
    last = max(row.index for run in comparison.runs for row in run.rounds)
    ramp = {"low": "round 0", "high": f"round {last}", "from": "--early", "to": "--late"}
    return {"id": "pass-at-k", "title": "pass@k", "words": words, "groups": [{"title": "", "figures": figures}], "ramp": ramp}


def _pass_curves(run: Measured, named: bool) -> dict[str, Any] | None:
    lines, rows, every = list[Line](), list[list[Any]](), set[int]()
    for place, row in enumerate(run.rounds):
        points = [(k, *value) for k in range(1, 1 + _samples(row)) if (value := _pass(row, k))]
        if points:
            share = place / max(1, len(run.rounds) - 1)
            lines.append(Line(name=f"round {row.index}", points=points, ink=Ink.step(share)))
            rows += [[f"round {row.index}", k, interval({"k": rate, "k.low": low, "k.high": high}, "k")] for k, rate, low, high in points]
            every |= {k for k, *_ in points}
    if not lines:
        return None
    ticks = [k for k in sorted(every) if k & (k - 1) == 0 or k == max(every)]
    alt = "; ".join(
        f"{line.name}: {100 * line.points[0][1]:.0f}% at k=1, {100 * line.points[-1][1]:.0f}% at k={line.points[-1][0]:g}" for line in lines
    )
    svg = plots.curves(lines, xlabel="k samples", ylabel="", ticks=ticks, log2=True)
    return figure_of(run.name if named else "pass@k by round", svg, f"pass@k of {run.name}. {alt}", table_of(["round", "k", "pass@k"], rows))


def _samples(row: Round) -> int:
    return max((int(item.get("sampled") or 0) for item in row.items.values()), default=0)


def _pass(row: Round, k: int) -> tuple[float, float | None, float | None] | None:
    """pass@k with its interval: what the evaluation says, else reckoned from the rows per problem."""
    name = "sampled_accuracy" if k == 1 else f"pass_at_{k}"
    m = row.summary.metrics
    if name in m:
        return m[name], m.get(f"{name}.low"), m.get(f"{name}.high")
    values = [value for item in row.items.values() if (value := item_value(item, name)) is not None]
    if not values:
        return None
    bounds = wilson(int(sum(values)), len(values)) if all(value in (0, 1) for value in values) else (None, None)
    return sum(values) / len(values), *bounds


def diversity(comparison: Comparison) -> Section | None:
    runs = [run for run in comparison.runs if run.rounds]
    known = {name for run in runs for row in run.rounds for name in row.summary.metrics}
    measure = next((name for name in DIVERSITY if name in known), None)
    if measure is None or not comparison.metrics:
        return None
    main = comparison.metrics[0]
    series, rows = [], []
    for number, run in enumerate(comparison.runs):
        both = [row for row in run.rounds if {measure, main} <= row.summary.metrics.keys()]
        series.append(([(row.summary.metrics[measure], row.summary.metrics[main], str(row.index)) for row in both], Ink.series(number)))
        rows += [[run.name, row.index, f"{row.summary.metrics[measure]:.3f}", f"{row.summary.metrics[main]:.3f}"] for row in both]
    svg = plots.paths(series, xlabel=metric_words(measure), ylabel=metric_words(main))
    alt = "; ".join(f"{name} round {index}: {x}, {y}" for name, index, x, y in rows)
    table = table_of(["run", "round", metric_words(measure), metric_words(main)], rows)
    figure = figure_of(f"{metric_words(main)} against {metric_words(measure)}", svg, f"Accuracy against diversity. {alt}", table)
    words = "Numbers are rounds. A policy that gains accuracy by saying the same thing every time moves up and to the left."
    return {
        "id": "diversity",
        "title": "Diversity against accuracy",
        "words": words,
        "groups": [{"title": "", "figures": [figure]}],
        "legend": legend(comparison.runs),
    }
