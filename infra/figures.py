"""The curves of a run over its rounds, as one figure."""

from collections.abc import Mapping, Sequence
from typing import Any

PASS, DIVERSITY = "pass_at_", ("distinct_equations", "distinct_answers")
BLUE = "#2a6f97"

Points = Mapping[int, Mapping[str, float]]
"""Round → its metrics."""


def curves(points: Points, title: str) -> Any:
    """pass@1 and pass@k or success and SPL, balance and diversity over rounds, each with its interval where there is one: a matplotlib `Figure`.

    A metric that no round has gives no panel.
    """
    from matplotlib.figure import Figure  # without pyplot, which keeps every figure it made and wants the main thread

    names = panels(points)
    figure = Figure(figsize=(3.2 * max(len(names), 1), 2.8), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        _panel(axes, name, points)
    return figure


def panels(points: Points) -> Sequence[str]:
    """The metrics that are drawn, of those that there are."""
    known = {name for metrics in points.values() for name in metrics}
    most = max((int(k) for name in known if (k := name.removeprefix(PASS)).isdigit()), default=1)
    diversity = next((name for name in DIVERSITY if name in known), "")
    return [name for name in dict.fromkeys(("pass_at_1", f"{PASS}{most}", "success", "spl", "balance", diversity)) if name in known]


def _panel(axes: Any, name: str, points: Points) -> None:
    rounds = [index for index in sorted(points) if name in points[index]]
    axes.plot(rounds, [points[index][name] for index in rounds], marker="o", markersize=3.5, color=BLUE)
    between = [index for index in rounds if {f"{name}.low", f"{name}.high"} <= points[index].keys()]
    low, high = ([points[index][f"{name}.{end}"] for index in between] for end in ("low", "high"))
    axes.fill_between(between, low, high, alpha=0.18, linewidth=0, color=BLUE)
    axes.set_title(name.replace(PASS, "pass@").replace("_", " "), fontsize=9)
    axes.set_xlabel("round", fontsize=8)
    axes.set_xticks(sorted(points))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
