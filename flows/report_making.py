"""The sections of a report that say how it came about: balance maps, flow of rows, time, rollouts that changed, lineage."""

from collections.abc import Sequence
from typing import Any

from ratchet.flows import report_data as data
from ratchet.flows import report_plots as plots
from ratchet.flows.comparison import Comparison
from ratchet.flows.measured import Measured
from ratchet.flows.report_parts import Section, figure_of, number_words, sentence, table_of
from ratchet.flows.report_plots import Ink
from ratchet.flows.tables import interval, metric_words


def balance(comparison: Comparison) -> Section | None:
    groups, notes, scores = [], [], list[float]()
    for run in comparison.runs:
        found = data.cells(run)
        maps = {index: rows for index, rows in found.items() if all({"temperature", "threshold", "balance"} <= row.keys() for row in rows)}
        scores += [row["balance"] for rows in maps.values() for row in rows]
        notes += [f"The controller of {run.name} searched no map of temperature × threshold × balance." for _ in [0] if found and not maps]
        if lost := [row.index for row in run.rounds if row.summary.balance is not None and row.index not in found]:
            notes.append(f"The grid of round {', '.join(map(str, lost))} of {run.name} is not in the store any more.")
        groups.append((run, maps))
    if not scores:
        return {"id": "balance", "title": "Balance map", "notes": list(dict.fromkeys(notes))} if notes else None
    low, high = min(scores), max(scores)
    shown = [
        {"title": run.name if len(comparison.runs) > 1 else "", "figures": [_map(run, index, rows, low, high) for index, rows in maps.items()]}
        for run, maps in groups if maps
    ]  # fmt: skip
    words = "The balance of exploration and exploitation that the controller measured before each round; the ring is what it chose."
    ramp = {"low": f"{low:.2f}", "high": f"{high:.2f}", "from": "--low", "to": "--high"}
    return {
        "id": "balance",
        "title": "Balance map",
        "words": words,
        "groups": shown,
        "ramp": ramp,
        "small": True,
        "notes": list(dict.fromkeys(notes)),
    }


def _map(run: Measured, index: int, cells: Sequence[dict[str, Any]], low: float, high: float) -> dict[str, Any]:
    row = next(row for row in run.rounds if row.index == index)
    knobs = row.summary.knobs
    columns, thresholds = (sorted({cell[name] for cell in cells}) for name in ("temperature", "threshold"))
    score = {(cell["temperature"], cell["threshold"]): cell["balance"] for cell in cells}
    rows = [[f"{r:g}", *(f"{score[t, r]:.3f}" if (t, r) in score else "–" for t in columns)] for r in reversed(thresholds)]
    chosen = f"chosen: temperature {number_words(knobs.get('temperature'))}, threshold {number_words(knobs.get('threshold'))}"
    caption = chosen + (f", balance {row.summary.balance:.3f}" if row.summary.balance is not None else "")
    table = table_of(["threshold", *(f"t={t:g}" for t in columns)], rows)
    svg = plots.balance_map(cells, low, high, knobs)
    return figure_of(f"round {index}", svg, f"Balance in round {index}: {caption}", table, caption)


def flow(comparison: Comparison) -> Section | None:
    groups, untold = [], False
    for run in comparison.runs:
        flows = data.row_flows(run)
        most = max((flow.sampled for flow in flows), default=0)
        figures = [_flow_figure(flow, most) for flow in flows]
        untold |= any("" in flow.kept for flow in flows)
        groups += [{"title": run.name if len(comparison.runs) > 1 else "", "figures": figures}] if figures else []
    if not groups:
        return None
    legend = [("correct", plots.css(Ink.good)), ("wrong", plots.css(Ink.bad)), ("not judged", plots.css(Ink.unsure))]
    notes = (
        ["Where what was kept is grey, the rows themselves are not in the store any more: how many were kept is known, not which."] if untold else []
    )
    words = "What each round sampled to train on, how it was judged, and what of it was kept."
    return {"id": "flow", "title": "Flow of rows", "words": words, "groups": groups, "small": True, "legend": legend, "notes": notes}


def _flow_figure(flow: data.RowFlow, most: int) -> dict[str, Any]:
    right = flow.kept.get("correct")
    caption = f"{100 * flow.kept_rows / flow.sampled:.1f}% kept" + (
        f", {100 * right / flow.kept_rows:.1f}% of it correct" if right and flow.kept_rows else ""
    )
    rows = [[name, f"{count:,}", f"{flow.kept.get(name, 0):,}" if "" not in flow.kept else "–"] for name, count in flow.outcomes.items()]
    rows.append(["in all", f"{flow.sampled:,}", f"{flow.kept_rows:,}"])
    alt = f"Round {flow.round}: {flow.sampled} sampled, {flow.outcomes.get('correct', 0)} correct, {flow.kept_rows} kept"
    return figure_of(f"round {flow.round}", plots.flow(flow, most), alt, table_of(["outcome", "sampled", "kept"], rows), caption)


def time(comparison: Comparison) -> Section | None:
    found = {run.name: data.seconds(run) for run in comparison.runs}
    kinds = list(dict.fromkeys(kind for rounds in found.values() for parts in rounds.values() for kind in parts))
    total = {kind: sum(parts.get(kind, 0.0) for rounds in found.values() for parts in rounds.values()) for kind in kinds}
    kinds = sorted((kind for kind in kinds if total[kind] > 0), key=lambda kind: (kind == "other", -total[kind]))
    if not kinds:
        return None
    figures = []
    for name, rounds in found.items():
        svg = plots.stacked(rounds, kinds, xlabel="seconds")
        rows = [
            [f"round {index}", *(f"{parts.get(kind, 0.0):,.1f}" for kind in kinds), f"{sum(parts.values()):,.1f}"] for index, parts in rounds.items()
        ]
        alt = "; ".join(f"round {index}: {sum(parts.values()):.0f} s" for index, parts in rounds.items())
        figures.append(
            figure_of(
                name if len(found) > 1 else "seconds by round", svg, f"Seconds per round of {name}. {alt}", table_of(["", *kinds, "in all"], rows)
            )
        )
    legend = [(kind, plots.css(Ink.series(number))) for number, kind in enumerate(kinds)]
    words = "Seconds of the attempts that published; shards add up, whether they ran side by side or not. Found work counts what it once took."
    return {"id": "time", "title": "Time and cost", "words": words, "groups": [{"title": "", "figures": figures}], "legend": legend}


def changed(comparison: Comparison) -> Section | None:
    if not comparison.metrics:
        return None
    main = comparison.metrics[0]
    changes, notes = [], []
    ends = [(run.rounds[0], run.rounds[-1]) for run in comparison.runs if len(run.rounds) > 1] if len(comparison.runs) == 1 else []
    ends += [
        (mine[-1].before, mine[-1].after)
        for run in comparison.runs[1:]
        if (mine := [p for p in comparison.of(main) if p.after.run is run and not p.is_same])
    ]
    for before, after in ends:
        if gaps := [row.gap for row in (before, after) if not row.items]:
            notes.append(sentence(gaps[0]))
            continue
        for change in data.changes(before, after, main):
            title = f"{change.what}: {change.count} of {change.of} problems, from {change.before} to {change.after}"
            if change.what == "right only in between":
                title = f"{change.what}: {change.count} of {change.of} problems were right in some round before, and are wrong at both ends"
            more = f"{change.count - len(change.examples)} more are not shown." if change.count > len(change.examples) else ""
            examples = [{**vars(example), "spoken": _spoken(example.track)} for example in change.examples]
            changes.append({"title": title, "before": change.before, "after": change.after, "examples": examples, "more": more})
        if any(not data.greedy(row) for row in (before, after)):
            notes.append("Texts that are not shown are of rollouts that the store has no more; which problems changed is known from the report.")
    if not (changes or notes):
        return None
    words = "Greedy answers to held-out problems. The marks are the rounds in their order."
    return {"id": "changed", "title": "Rollouts that changed", "words": words, "changes": changes, "notes": list(dict.fromkeys(notes))}


def _spoken(track: str) -> str:
    names = {"✓": "right", "✗": "wrong", "·": "not known"}
    return ", ".join(names[mark] for mark in track)


def lineage(comparison: Comparison) -> Section | None:
    lineages = []
    for run in comparison.runs:
        champion = run.champion
        if champion is None:
            continue
        main = run.headline[0]
        chain = [
            {**vars(step), "rate": f"{metric_words(main)} {interval(step.metrics, main)}" if main in step.metrics else ""}
            for step in data.lineage(run, champion)
        ]
        forked = run.summary.forked
        title = f"{run.name}: round {champion.index}, {metric_words(main)} {interval(champion.summary.metrics, main)}"
        title += f"; forked from {forked['run']} after round {forked['round']}" if forked else ""
        lineages.append({"title": title, "chain": chain})
    words = "How the best policy came to be, from the policy that everything began with."
    return {"id": "lineage", "title": "Lineage of the champion", "words": words, "lineages": lineages} if lineages else None
