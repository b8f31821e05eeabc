"""A world of corridors for a graph agent: from a hub `arms` of them lead off, and one ends at the colour that is asked for.

The colour is seen from the place before the end, so who stands at the hub cannot know the way, and who errs has to come back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np

from ratchet.components.environments.views import GEOMETRY, STOP, FloorPlan, View
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.records import Problem

COLOURS = ("red", "green", "blue", "white")


@dataclass(frozen=True, kw_only=True)
class Maze:
    arms: int = 3
    length: int = 2

    def open(self, episode: Mapping[str, Any]) -> "Corridors":
        return Corridors(self, episode)

    def restore(self, episode: Mapping[str, Any], path: Sequence[str]) -> "Corridors":
        walk = self.open(episode)
        for place in path[1:]:
            walk.step(place)
        return walk

    def judge(self, episode: Mapping[str, Any], path: Sequence[str]) -> dict[str, float]:
        goal, walked = self.goal(episode), len(path) - 1
        reached = float(path[-1] == goal)
        spl = reached * self.length / max(walked, self.length)
        error, ndtw = float(self.away(path[-1], goal)), exp(-max(self.away(place, goal) for place in path))
        found = {"success": reached, "oracle_success": float(goal in path), "spl": spl, "error": error, "ndtw": ndtw}
        return {**found, "length": walked, "shortest": self.length}

    def away(self, one: str, other: str) -> int:
        """Corridors to go from one place to another."""
        (arm, _, step), (other_arm, _, other_step) = one.partition("."), other.partition(".")
        depth, other_depth = int(step or 0), int(other_step or 0)
        return abs(depth - other_depth) if arm == other_arm else depth + other_depth

    def goal(self, episode: Mapping[str, Any]) -> str:
        return f"{episode['goal']}.{self.length}"

    def shortest(self, episode: Mapping[str, Any]) -> list[str]:
        return ["hub", *(f"{episode['goal']}.{step}" for step in range(1, self.length + 1))]

    def vocabulary(self) -> tuple[str, ...]:
        return tuple(sorted((*COLOURS, "corridor")))

    def floor(self, episode: Mapping[str, Any]) -> FloorPlan:
        ends = {f"{arm}.{step}": (float(arm), float(step)) for arm in range(self.arms) for step in range(1, self.length + 1)}
        ways = [("hub" if step == 1 else f"{arm}.{step - 1}", f"{arm}.{step}") for arm in range(self.arms) for step in range(1, self.length + 1)]
        return FloorPlan(places={"hub": (0.0, 0.0), **ends}, ways=ways, goals=(self.goal(episode),))


class Corridors:
    def __init__(self, maze: Maze, episode: Mapping[str, Any]) -> None:
        self.maze, self.episode = maze, episode
        self.path = ["hub"]

    @property
    def visited(self) -> list[str]:
        return list(dict.fromkeys(reversed(self.path)))

    def next_of(self, place: str) -> list[str]:
        if place == "hub":
            return [f"{arm}.1" for arm in range(self.maze.arms)]
        arm, step = place.split(".")
        return [f"{arm}.{int(step) + 1}"] if int(step) < self.maze.length else []

    def view(self) -> View:
        visited = self.visited
        seen = [place for known in reversed(visited) for place in self.next_of(known) if place not in visited]
        places = (*visited, *seen)
        geometry = np.zeros((len(places), len(GEOMETRY)), dtype=np.float32)
        ways = np.array([[self.way(one, other) for other in places] for one in places], dtype=np.float32)
        geometry[:, -1] = ways[0]
        return View(places=places, visited=len(visited), geometry=geometry, words=tuple(map(self.words, places)), ways=ways)

    def words(self, place: str) -> tuple[str, ...]:
        arm, _, step = place.partition(".")
        return (self.episode["colours"][int(arm)],) if step == str(self.maze.length) else ("corridor",)

    def way(self, one: str, other: str) -> int:
        return self.maze.away(one, other)

    def step(self, place: str) -> None:
        if place not in self.view().frontier:
            raise InputError("not a place to go to", got=place, allowed=", ".join(self.view().frontier))
        arm = place.partition(".")[0]
        while self.path[-1] != place:
            here, _, depth = self.path[-1].partition(".")
            forward = f"{arm}.{int(depth or 0) + 1}"
            back = f"{here}.{int(depth) - 1}" if depth not in ("", "1") else "hub"
            self.path.append(forward if here in ("hub", arm) else back)

    def teacher(self) -> str:
        goal, arm = self.maze.goal(self.episode), str(self.episode["goal"])
        if self.path[-1] == goal:
            return STOP
        return next(place for place in self.view().frontier if place.partition(".")[0] == arm)


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Mazes in two wings (their groups), the goal's colour in words."""

    split: str = "train"
    count: int = 12
    arms: int = 3

    def propose(self) -> Iterator[Problem]:
        for number in range(self.count):
            draws = np.random.default_rng(derive_seed(self.split, number))
            colours = [COLOURS[index] for index in draws.permutation(len(COLOURS))[: self.arms]]
            goal = int(draws.integers(self.arms))
            wing = "east" if number < self.count // 2 else "west"
            episode = {"colours": colours, "goal": goal}
            yield Problem(id=f"{self.split}-{number}", prompt=f"go to {colours[goal]}", episode=episode, group=wing, reference=str(goal))
