"""The plots of a report: matplotlib figures as inline SVG whose colours are the page's, so that one drawing serves light and dark.

Every colour that is drawn is a stand-in of `Ink`, a hex value that means nothing, and is put as a CSS variable into the SVG. Text stays
text, so that it is found, selected and read aloud.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ratchet.flows.report_data import RowFlow

WIDTH, HEIGHT = 4.3, 2.85
"""Inches; drawn at the width of a phone, so that its text can be read there."""

SERIES = 8
"""Colours for runs; a ninth run has the first one's again, with another line."""

LINES = ("-", "--", ":", "-.")


class Ink:
    """Stand-ins for colours."""

    text, muted, grid, paper, good, bad, unsure = (f"#0101{n:02x}" for n in range(1, 8))

    @staticmethod
    def series(number: int) -> str:
        return f"#0202{number % SERIES:02x}"

    @staticmethod
    def step(share: float) -> str:
        """From early (0) to late (1)."""
        return f"#0303{round(100 * share):02x}"

    @staticmethod
    def level(share: float) -> str:
        """From low (0) to high (1) on a map."""
        return f"#0404{round(100 * share):02x}"


NAMED = {
    Ink.text: "text", Ink.muted: "muted", Ink.grid: "grid", Ink.paper: "card", Ink.good: "good", Ink.bad: "bad", Ink.unsure: "unsure",
}  # fmt: skip


def css(ink: str) -> str:
    """The colour that a stand-in stands for, in the page's own terms."""
    number = int(ink[5:], 16)
    match ink[1:5]:
        case "0202":
            return f"var(--series-{number})"
        case "0303":
            return f"color-mix(in oklab, var(--late) {number}%, var(--early))"
        case "0404":
            return f"color-mix(in oklab, var(--high) {number}%, var(--low))"
    return f"var(--{NAMED[ink]})"


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve: x, y and where there is one its interval."""

    name: str
    points: Sequence[tuple[float, float, float | None, float | None]]
    ink: str
    dash: str = "-"
    step: bool = False


def curves(lines: Sequence[Line], *, xlabel: str, ylabel: str, ticks: Sequence[float] = (), log2: bool = False, percent: bool = True) -> str:
    """Curves with intervals over a common axis."""
    figure, axes = _canvas()
    for line in lines:
        x, y = [p[0] for p in line.points], [p[1] for p in line.points]
        axes.plot(x, y, line.dash, color=line.ink, linewidth=1.8, marker="o", markersize=4, drawstyle="steps-post" if line.step else "default")
        known = [(p[0], p[2], p[3]) for p in line.points if p[2] is not None and p[3] is not None]
        if line.step:
            axes.vlines([p[0] for p in known], [p[1] for p in known], [p[2] for p in known], color=line.ink, linewidth=1, alpha=0.6)
        elif known:
            axes.fill_between([p[0] for p in known], [p[1] for p in known], [p[2] for p in known], color=line.ink, alpha=0.14, linewidth=0)
    if log2:
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    if len(ticks):
        axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    _labels(axes, xlabel, ylabel, percent=percent)
    return svg_of(figure)


def forest(rows: Sequence[tuple[str, float, float, float, str]], *, xlabel: str) -> str:
    """Differences with their intervals, one a line: (name, difference, low, high, verdict)."""
    figure, axes = _canvas(height=0.75 + 0.26 * max(len(rows), 2))
    inks = {"better": Ink.good, "worse": Ink.bad}
    axes.axvline(0, color=Ink.muted, linewidth=1)
    for place, (_, difference, low, high, verdict) in enumerate(rows):
        ink = inks.get(verdict, Ink.unsure)
        axes.plot([low, high], [place, place], color=ink, linewidth=2, solid_capstyle="round")
        axes.plot([difference], [place], "o", color=ink, markersize=6)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    _labels(axes, xlabel, "", percent=False)
    return svg_of(figure)


def paths(runs: Sequence[tuple[Sequence[tuple[float, float, str]], str]], *, xlabel: str, ylabel: str) -> str:
    figure, axes = _canvas()
    for points, ink in runs:
        x, y = [p[0] for p in points], [p[1] for p in points]
        axes.plot(x, y, "-", color=ink, linewidth=1.2, alpha=0.55)
        axes.scatter(x, y, s=95, color=ink, zorder=3, linewidth=0)
        for at_x, at_y, name in points:
            axes.text(at_x, at_y, name, color=Ink.paper, ha="center", va="center_baseline", fontsize=7.5, fontweight="bold", zorder=4)
    axes.margins(0.08)
    _labels(axes, xlabel, ylabel, percent=True)
    return svg_of(figure)


def balance_map(cells: Sequence[Mapping[str, float]], low: float, high: float, chosen: Mapping[str, float]) -> str:
    """A controller's score over temperature × threshold, and the cell that it chose."""
    from matplotlib.colors import ListedColormap

    columns = sorted({cell["temperature"] for cell in cells})
    rows = sorted({cell["threshold"] for cell in cells})
    score = {(cell["temperature"], cell["threshold"]): cell["balance"] for cell in cells}
    grid = [[score.get((t, r), float("nan")) for t in columns] for r in rows]
    figure, axes = _canvas(width=3.0, height=2.9)
    levels = ListedColormap([Ink.level(n / 20) for n in range(21)])
    axes.pcolormesh(grid, cmap=levels, vmin=low, vmax=high if high > low else low + 1, edgecolors=Ink.paper, linewidth=0.4)
    if chosen.get("temperature") in columns and chosen.get("threshold") in rows:
        x, y = columns.index(chosen["temperature"]) + 0.5, rows.index(chosen["threshold"]) + 0.5
        axes.plot([x], [y], "o", markersize=11, markerfacecolor="none", markeredgecolor=Ink.paper, markeredgewidth=4)
        axes.plot([x], [y], "o", markersize=11, markerfacecolor="none", markeredgecolor=Ink.bad, markeredgewidth=2)
    for setter, values in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        every = max(1, -(-len(values) // 8))
        setter([place + 0.5 for place in range(len(values))][::every], [f"{value:g}" for value in values][::every])
    axes.grid(visible=False)
    _labels(axes, "temperature", "threshold", percent=False)
    return svg_of(figure)


def flow(rows: RowFlow, most: int) -> str:
    """Rows sampled → judged → kept, as bands of so many rows; `most` is the height that all rounds of a run are drawn to."""
    figure, axes = _canvas(width=3.0, height=2.3)
    inks = {"correct": Ink.good, "wrong": Ink.bad}
    ordered = sorted(rows.outcomes.items(), key=lambda item: item[0] != "correct")
    _bar(axes, 0, 0, rows.sampled, Ink.muted)
    below, kept_below = 0, 0
    for name, count in ordered:
        ink = inks.get(name, Ink.unsure)
        _band(axes, (0, below, count), (1, below, count), ink)
        _bar(axes, 1, below, count, ink)
        if kept := rows.kept.get(name, 0):
            _band(axes, (1, below, kept), (2, kept_below, kept), ink)
            _bar(axes, 2, kept_below, kept, ink)
            kept_below += kept
        below += count
    if untold := rows.kept.get("", 0):
        _band(axes, (1, 0, min(untold, rows.sampled)), (2, kept_below, untold), Ink.muted)
        _bar(axes, 2, kept_below, untold, Ink.muted)
    for x, name, count in ((0, "sampled", rows.sampled), (1, "correct", rows.outcomes.get("correct", 0)), (2, "kept", rows.kept_rows)):
        axes.text(x, -0.05 * most, f"{name}\n{count:,}", ha="center", va="top", color=Ink.text, fontsize=9, linespacing=1.3)
    axes.set_xlim(-0.35, 2.35)
    axes.set_ylim(-0.3 * most, most * 1.03)
    axes.set_axis_off()
    return svg_of(figure)


def _bar(axes: Any, x: float, below: float, height: float, ink: str) -> None:
    axes.bar([x], [height], bottom=[below], width=0.12, color=ink, linewidth=0)


def _band(axes: Any, left: tuple[float, float, float], right: tuple[float, float, float], ink: str) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x0, y0, h0), (x1, y1, h1) = left, right
    x0, x1 = x0 + 0.06, x1 - 0.06
    middle = (x0 + x1) / 2
    corners = [(x0, y0), (middle, y0), (middle, y1), (x1, y1), (x1, y1 + h1), (middle, y1 + h1), (middle, y0 + h0), (x0, y0 + h0), (x0, y0)]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    axes.add_patch(PathPatch(Path(corners, codes), facecolor=ink, alpha=0.28, linewidth=0))


def stacked(rounds: Mapping[int, Mapping[str, float]], kinds: Sequence[str], *, xlabel: str) -> str:
    """What each round's seconds went to, one bar a round."""
    figure, axes = _canvas(height=0.8 + 0.34 * max(len(rounds), 2))
    left = dict.fromkeys(rounds, 0.0)
    for number, kind in enumerate(kinds):
        widths = [rounds[index].get(kind, 0.0) for index in rounds]
        axes.barh(range(len(rounds)), widths, left=list(left.values()), color=Ink.series(number), height=0.68, edgecolor=Ink.paper, linewidth=0.6)
        left = {index: left[index] + rounds[index].get(kind, 0.0) for index in rounds}
    axes.set_yticks(range(len(rounds)), [f"round {index}" for index in rounds])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    _labels(axes, xlabel, "", percent=False)
    return svg_of(figure)


def _canvas(width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot, which keeps every figure it made

    style = {
        "font.size": 9.5, "axes.edgecolor": Ink.grid, "axes.labelcolor": Ink.muted, "xtick.color": Ink.muted, "ytick.color": Ink.muted,
        "text.color": Ink.text, "axes.grid": True, "grid.color": Ink.grid, "grid.linewidth": 0.7, "axes.spines.top": False,
        "axes.spines.right": False, "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0, "axes.linewidth": 0.8,
        "legend.frameon": False, "axes.spines.left": False,
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def _labels(axes: Any, xlabel: str, ylabel: str, *, percent: bool) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def svg_of(figure: Any) -> str:
    """A figure as an SVG element to stand in a page: without header, metadata or anything that only matplotlib reads."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ratchet"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)
    return re.sub(r"#0[1-4]0[1-4][0-9a-f]{2}", lambda found: css(found[0]), text).strip()
