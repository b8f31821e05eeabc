"""Trajectories drawn on floor plans, as PNG: equal trajectories are equal bytes."""

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ratchet.components.environments.views import FloorPlan

WAYS, SHORTEST, GOAL, END = "#d4d4d4", "#4c9f70", "#f0b400", "#2c3e50"
MARGIN = 0.25
"""Of the trajectory's extent, shown around it."""


def draw(plan: FloorPlan, *, path: Sequence[str], shortest: Sequence[str], title: str) -> bytes:
    """What lies around a trajectory, seen from above: all ways, the shortest one, the agent's steps, the start, its end and the goals.

    Arrows go from light to dark, and a place bears the number of the step that reached it first. Storeys lie over each other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.8), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    goals = [goal for goal in plan.goals if goal in plan.places]
    for here, there in plan.ways:
        axes.plot(*_line(plan, (here, there)), color=WAYS, linewidth=1, zorder=1)
    axes.scatter(*_line(plan, tuple(plan.places)), s=10, color=WAYS, zorder=1)
    axes.plot(*_line(plan, shortest), color=SHORTEST, linewidth=8, alpha=0.4, solid_capstyle="round", zorder=2, label="shortest way")
    axes.scatter(*_line(plan, goals), marker="*", s=330, color=GOAL, edgecolors="black", linewidths=0.8, zorder=5, label="goal")
    axes.scatter(*_line(plan, path[:1]), marker="s", s=90, color="white", edgecolors="black", zorder=5, label="start")
    axes.scatter(*_line(plan, path[-1:]), marker="x", s=70, color=END, linewidths=2.2, zorder=7, label="agent's end")
    _arrows(axes, plan, path)
    _numbers(axes, plan, path)
    _frame(axes, plan, [*path, *shortest, *goals])
    axes.set_title(title, fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=5, frameon=False, fontsize=9)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None}, bbox_inches="tight")
    return drawn.getvalue()


def _line(plan: FloorPlan, places: Sequence[str]) -> tuple[list[float], list[float]]:
    return [plan.places[place][0] for place in places], [plan.places[place][1] for place in places]


def _arrows(axes: Any, plan: FloorPlan, path: Sequence[str]) -> None:
    from matplotlib import colormaps

    shades = colormaps["OrRd"]
    for number, (here, there) in enumerate(pairwise(path)):
        colour = shades(0.45 + 0.55 * number / max(1, len(path) - 2))
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.7, "shrinkA": 2, "shrinkB": 4, "connectionstyle": "arc3,rad=0.14"}
        axes.annotate("", xy=plan.places[there], xytext=plan.places[here], arrowprops=style, zorder=4, annotation_clip=False)


def _numbers(axes: Any, plan: FloorPlan, path: Sequence[str]) -> None:
    from matplotlib.patheffects import withStroke

    first: dict[str, int] = {}
    for number, place in enumerate(path):
        first.setdefault(place, number)
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for place, number in first.items():
        axes.annotate(str(number), plan.places[place], xytext=(7, 6), textcoords="offset points", fontsize=9, path_effects=halo, zorder=8)


def _frame(axes: Any, plan: FloorPlan, places: Sequence[str]) -> None:
    """A square around the places, in the plan's own proportions."""
    xs, ys = _line(plan, places)
    half = (0.5 + MARGIN) * max(max(xs) - min(xs), max(ys) - min(ys), 1.0)
    axes.set_xlim((max(xs) + min(xs)) / 2 - half, (max(xs) + min(xs)) / 2 + half)
    axes.set_ylim((max(ys) + min(ys)) / 2 - half, (max(ys) + min(ys)) / 2 + half)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
