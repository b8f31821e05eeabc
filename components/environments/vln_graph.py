"""Scanned buildings as graphs of viewpoints (Matterport3D, REVERIE), seen through named objects and, where there are any, image features.

An episode is `{"scan", "start", "heading" (radians, default 0), "goals": [viewpoints]}`. The agent knows the places it visited and those
seen from there; it walks over visited places alone, as DUET's map does (2202.11742, §3.3), and looks where its last step led.

    success          the path ends at a goal                     oracle_success   it passes one
    spl              success · shortest / max(length, shortest, 0.01)      (SID, 2509.24910; so 0 where the start is a goal)
    success_3m       it ends less than `success_m` from a goal, along ways
    ndtw             exp(-DTW / (|shortest| · success_m)), against the shortest way, by distances along ways (1907.05446)

`shortest` is to the nearest goal, where DUET's code takes the annotated path, which is not always the shortest.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ratchet.components.environments.graphs import Graph, Pictures, pictures_of
from ratchet.components.environments.matterport import Files
from ratchet.components.environments.views import FloorPlan
from ratchet.components.environments.walks import MapWalk, from_start
from ratchet.components.environments.warping import ndtw
from ratchet.errors import InputError

Stamps = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class VLNGraph:
    """The world of vision-and-language navigation on discrete viewpoints."""

    graphs: Path
    """A folder of `SCAN_connectivity.json`, or scans as .jsonl or .jsonl.gz."""
    objects: Path | None = None
    """A folder of `SCAN_VIEWPOINT.json`, or .jsonl or .jsonl.gz; None: nothing is seen but where ways lead."""
    features: Path | None = None
    """HDF5: `SCAN_VIEWPOINT` → [36, F]."""
    unit: float = 5.0
    """Metres that count as 1 in a view's geometry and ways, about two steps; all else is in metres."""
    success_m: float = 3.0

    def __post_init__(self) -> None:
        for name in ("unit", "success_m"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is a length in metres", got=getattr(self, name), allowed="above 0")

    def open(self, episode: Mapping[str, Any]) -> MapWalk:
        graph, start, goals = self._read(episode)
        return MapWalk(graph, start, _heading(episode), goals, self.unit, self._pictures(graph))

    def restore(self, episode: Mapping[str, Any], path: Sequence[str]) -> MapWalk:
        walk = self.open(episode)
        walk.follow(path)
        return walk

    def judge(self, episode: Mapping[str, Any], path: Sequence[str]) -> dict[str, float]:
        graph, start, goals = self._read(episode)
        passed = from_start(graph, start, path)
        to_goal = graph.distances[:, goals].min(axis=1)
        length = sum(float(graph.straight[here, there]) for here, there in pairwise(passed))
        shortest, error = float(to_goal[start]), float(to_goal[passed[-1]])
        success = float(passed[-1] in goals)
        reference = graph.path(start, _nearest(graph, start, goals))
        return {
            "success": success,
            "oracle_success": float(not set(goals).isdisjoint(passed)),
            "success_3m": float(error < self.success_m),
            "spl": success * shortest / max(length, shortest, 0.01),
            "error": error,
            "length": length,
            "shortest": shortest,
            "ndtw": ndtw(graph.distances[passed][:, reference].tolist(), self.success_m),
        }

    def shortest(self, episode: Mapping[str, Any]) -> list[str]:
        graph, start, goals = self._read(episode)
        return [graph.places[number] for number in graph.path(start, _nearest(graph, start, goals))]

    def vocabulary(self) -> tuple[str, ...]:
        return tuple(sorted({word for scan in self.scans() for words in self.graph(scan).words for word in words}))

    def floor(self, episode: Mapping[str, Any]) -> FloorPlan:
        """Storeys lie over each other."""
        graph, _, goals = self._read(episode)
        places = {place: (float(x), float(y)) for place, (x, y, _) in zip(graph.places, graph.positions, strict=True)}
        ways = [(graph.places[here], graph.places[there]) for here, there in graph.ways]
        return FloorPlan(places=places, ways=ways, goals=tuple(graph.places[goal] for goal in goals))

    def scans(self) -> tuple[str, ...]:
        """The names of all scans, sorted."""
        return _files(self.graphs, self.objects, self._stamps()).names

    def graph(self, scan: str) -> Graph:
        """A scan's places, ways, distances and words."""
        return _graph(self.graphs, self.objects, self._stamps(), scan)

    def seen_from(self, scan: str, object_id: str) -> tuple[str, ...]:
        """The viewpoints from which an object is seen, none if there are none."""
        graph = self.graph(scan)
        return tuple(graph.places[place] for place in graph.sights.get(object_id, ()))

    def census(self) -> dict[str, int]:
        """Of all scans: what was read of viewpoints, ways and objects, used, and left out by reason: `viewpoints.not_included`, …"""
        files = _files(self.graphs, self.objects, self._stamps())
        found: Counter[str] = Counter({"object_files.of_a_scan_without_a_graph": files.strangers})
        for scan in files.names:
            found.update(files.scan(scan).census)
        return dict(sorted(found.items()))

    def _read(self, episode: Mapping[str, Any]) -> tuple[Graph, int, list[int]]:
        """An episode's graph, start and goals; InputError says what is wrong with the episode."""
        if missing := {"scan", "start", "goals"} - set(episode):
            raise InputError("the episode is not one of this world", got=sorted(episode), allowed=f"also {sorted(missing)}")
        _heading(episode)
        graph = self.graph(str(episode["scan"]))
        start = graph.number(episode["start"], "the start")
        named = episode["goals"]
        if isinstance(named, str) or not isinstance(named, Sequence) or not named or not all(isinstance(goal, str) for goal in named):
            raise InputError("an episode has a list of goals", got=repr(named)[:80], allowed="one viewpoint or more")
        goals = [graph.number(goal, "the goal") for goal in dict.fromkeys(named)]
        if not math.isfinite(graph.distances[start, goals].min()):
            raise InputError(f"no way leads from the start to a goal in scan {graph.name}", got=f"{episode['start']} to {', '.join(named)}"[:200])
        return graph, start, goals

    def _pictures(self, graph: Graph) -> Pictures | None:
        return _pictures(self.graphs, self.objects, self.features, self._stamps(), graph.name) if self.features else None

    def _stamps(self) -> Stamps:
        """What the caches of this process know the files by."""
        return tuple(_stamp(path) for path in (self.graphs, self.objects, self.features) if path)


def _heading(episode: Mapping[str, Any]) -> float:
    heading = episode.get("heading", 0.0)
    if isinstance(heading, bool) or not isinstance(heading, int | float) or not math.isfinite(heading):
        raise InputError("the heading of an episode is an angle", got=repr(heading)[:80], allowed="radians, clockwise from +y")
    return float(heading)


def _nearest(graph: Graph, start: int, goals: list[int]) -> int:
    return goals[int(graph.distances[start, goals].argmin())]


def _stamp(path: Path) -> tuple[int, int]:
    if not path.exists():
        raise InputError(f"{path} does not exist", next="give the path of a file or folder that does")
    return path.stat().st_mtime_ns, path.stat().st_size


@lru_cache(maxsize=8)
def _files(graphs: Path, objects: Path | None, stamps: Stamps) -> Files:
    return Files(graphs, objects)


@lru_cache(maxsize=256)
def _graph(graphs: Path, objects: Path | None, stamps: Stamps, scan: str) -> Graph:
    return Graph(_files(graphs, objects, stamps).scan(scan))


@lru_cache(maxsize=16)
def _pictures(graphs: Path, objects: Path | None, features: Path, stamps: Stamps, scan: str) -> Pictures:
    return pictures_of(features, _graph(graphs, objects, stamps, scan))
