"""BabyAI's missions `go to …` (`minigrid`), played on the map that a graph agent builds.

The agent lives in minigrid: it turns, goes forward and toggles doors, and knows what minigrid's view of 7 x 7 cells, with walls and
closed doors in the way, showed it after each of these actions. It decides at landmarks only, so a maze is a matter of a few decisions:

    object   a cell beside it, chosen when it was first seen           words: colour, type, such as `red`, `ball`
    door     its own cell, in which both rooms are seen                words: colour, `door`, `open` or `closed`
    edge     where known floor borders on unseen cells: a cell of      word: `unseen`
             each run, unless the run is beside another landmark

A place is a cell, `x,y`. `visited` are those where the agent decided: it looks about there, and in the end at the object if one is
beside it. Known ways lead over known floor and pass no place of the frontier: what lies behind one is offered when that has been
visited, so the decisions of a walk can be read from its path. A closed door on the way is opened and stays open.

`STOP` succeeds where minigrid's own verifier accepts an agent that looks about in that cell; to come by is oracle success only.
Episodes are `{"level": "BabyAI-GoToLocal-v0", "seed": 7}`. Minigrid's limit of actions is not applied: whoever samples limits decisions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ratchet.components.environments.babyai_levels import COLOURS, TYPES, Level, generate
from ratchet.components.environments.babyai_walk import GridWalk
from ratchet.components.environments.views import FloorPlan
from ratchet.components.environments.warping import ndtw
from ratchet.errors import InputError

NEAR = 3.0
"""Cells at which nDTW calls two places near: R2R's 3 m, with a cell for a metre."""
WORDS = ("a", "closed", "door", "go", "open", "the", "to", "unseen")


@dataclass(frozen=True, kw_only=True)
class Grids:
    """BabyAI's levels as a `GraphEnvironment`."""

    unit: float = 4.0
    """Cells that count as 1 in a view's distances: about a room, so that most of them are from 0 to 5. What `judge` tells is in cells."""

    def __post_init__(self) -> None:
        if not 0 < self.unit < float("inf"):
            raise InputError("a unit is a number of cells", got=self.unit, allowed="more than 0")

    def open(self, episode: Mapping[str, Any]) -> GridWalk:
        return GridWalk(_level(episode), self.unit)

    def restore(self, episode: Mapping[str, Any], path: Sequence[str]) -> GridWalk:
        """The walk as it stood after a path, which ends where the walk decided."""
        walk = self.open(episode)
        if list(path[:1]) != walk.path:
            raise InputError("a path begins where its episode does", got=path[0] if path else "no place", allowed=walk.path[0])
        while (passed := len(walk.path)) < len(path):
            frontier = walk.view().frontier
            chosen = next((place for place in path[passed:] if place in frontier), None)
            if chosen is None:
                what = f"the path goes on from {walk.path[-1]} to no place that is offered there"
                raise InputError(what, got=" ".join(path[passed:]), allowed=" ".join(frontier) or "none", next="end it where the walk decided")
            walk.step(chosen)
            taken = list(path[passed : len(walk.path)])
            if walk.path[passed:] != taken:
                what = f"the path goes from {path[passed - 1]} to {chosen} as the walk does not"
                raise InputError(what, got=" ".join(taken), allowed=" ".join(walk.path[passed:]))
        return walk

    def judge(self, episode: Mapping[str, Any], path: Sequence[str]) -> dict[str, float]:
        level = _level(episode)
        cells, reference = _cells(level, path), _shortest(level)
        distances = [level.distances([cell], level.walkable) for cell in reference]
        length, shortest, success = len(cells) - 1, len(reference) - 1, cells[-1] in level.goals
        return {
            "success": float(success),
            "oracle_success": float(not level.goals.isdisjoint(cells)),
            "spl": success * shortest / max(length, shortest, 1),
            "error": float(level.remaining[cells[-1]]),
            "length": float(length),
            "shortest": float(shortest),
            "ndtw": ndtw([[far[cell] for far in distances] for cell in cells], NEAR),
        }

    def shortest(self, episode: Mapping[str, Any]) -> list[str]:
        level = _level(episode)
        return [level.name(cell) for cell in _shortest(level)]

    def vocabulary(self) -> tuple[str, ...]:
        return tuple(sorted({*WORDS, *COLOURS, *TYPES}))

    def floor(self, episode: Mapping[str, Any]) -> FloorPlan:
        """North is up: a cell's second coordinate is -y."""
        level = _level(episode)
        cells = sorted(level.walkable)
        return FloorPlan(
            places={level.name(cell): (float(cell % level.width), -float(cell // level.width)) for cell in cells},
            ways=[(level.name(cell), level.name(cell + step)) for cell in cells for step in level.steps[:2] if cell + step in level.walkable],
            goals=tuple(level.name(cell) for cell in sorted(level.goals)),
        )


def _level(episode: Mapping[str, Any]) -> Level:
    level, seed = episode.get("level"), episode.get("seed")
    if set(episode) != {"level", "seed"} or not isinstance(level, str) or not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError("this is no episode of BabyAI", got=dict(episode), allowed='such as {"level": "BabyAI-GoToLocal-v0", "seed": 7}')
    return generate(level, seed)


def _shortest(level: Level) -> list[int]:
    """The cells from the start to the nearest goal; of several ways the one that turns right rather than down, left or up."""
    way = [level.start]
    while left := level.remaining[way[-1]]:
        way.append(next(way[-1] + step for step in level.steps if level.remaining.get(way[-1] + step) == left - 1))
    return way


def _cells(level: Level, path: Sequence[str]) -> list[int]:
    """A path as cells, if one can walk it."""
    if not path or level.cell(path[0]) != level.start:
        raise InputError("a path begins where its episode does", got=path[0] if path else "no place", allowed=level.name(level.start))
    cells = [level.start]
    for before, place in pairwise(path):
        cell = level.cell(place)
        if cell is None or cell - cells[-1] not in level.steps:
            beside = [level.name(cells[-1] + step) for step in level.steps if cells[-1] + step in level.walkable]
            raise InputError(f"one cannot go from {before} to this place at once", got=place, allowed=" ".join(beside))
        cells.append(cell)
    return cells
