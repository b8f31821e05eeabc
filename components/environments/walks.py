"""A walk on a graph, and the map that the walker builds: what was visited, what was seen from there, and the ways between.

The map is exact for what is known: known ways lead over visited places, and each visit adds the ways of that place and what they shorten
(one relaxation through it, as in Floyd's algorithm), so that a view costs a few array operations.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ratchet.components.environments.graphs import Graph, Pictures
from ratchet.components.environments.views import STOP, View
from ratchet.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class MapWalk:
    """An agent in a building, and the map it has built there."""

    def __init__(self, graph: Graph, start: int, heading: float, goals: list[int], unit: float, pictures: Pictures | None) -> None:
        import numpy as np

        self.path = [graph.places[start]]
        self._graph, self._goals, self._unit, self._pictures = graph, goals, unit, pictures
        self._heading = heading
        self._at = start
        self._slots: dict[int, int] = {start: 0}
        """Place → its row in `_ways`, in the order in which places were discovered."""
        self._ways = np.zeros((1, 1))
        self._visited: dict[int, None] = {}
        """The latest last."""
        self._words: dict[int, tuple[str, ...]] = {}
        self._glimpses: dict[int, list[NDArray[np.float32]]] = {}
        self._frontier: dict[int, None] = {start: None}
        self._arrive(start)

    def view(self) -> View:
        import numpy as np

        graph, here = self._graph, self._at
        order = [*reversed(self._visited), *self._frontier]
        index = np.array(order)
        slots = np.array([self._slots[place] for place in order])
        ways = (self._ways[slots[:, None], slots] / self._unit).astype(np.float32)
        geometry = np.empty((len(order), 6), dtype=np.float32)
        turn, rise = graph.heading[here, index] - self._heading, graph.elevation[here, index]
        geometry[:, 0], geometry[:, 1] = np.sin(turn), np.cos(turn)
        geometry[:, 2], geometry[:, 3] = np.sin(rise), np.cos(rise)
        geometry[:, 4], geometry[:, 5] = graph.straight[here, index] / self._unit, ways[0]
        geometry[0] = (0, 1, 0, 1, 0, 0)
        return View(
            places=tuple([graph.places[place] for place in order]),
            visited=len(self._visited),
            geometry=geometry,
            words=tuple([self._words[place] for place in order]),
            ways=ways,
            features=self._features(order),
        )

    def step(self, place: str) -> None:
        goal = self._graph.index.get(place)
        if goal is None or goal not in self._frontier:
            offered = ", ".join(self._graph.places[number] for number in self._frontier) or "nothing but to stop"
            raise InputError("the agent cannot go there", got=repr(place)[:80], allowed=offered[:400])
        for number in self._route(goal):
            self._walk(number)

    def follow(self, path: Sequence[str]) -> None:
        """Walk a whole path that begins at the start, place by place."""
        for number in from_start(self._graph, self._at, path)[1:]:
            self._walk(number)

    def teacher(self) -> str:
        """The place of the frontier from which the way to the nearest goal, the way there included, is shortest, the one discovered
        first among equals. A goal that was visited and left cannot be stopped at any more, so it counts only where no other is left;
        with nothing left to go to the answer is `STOP`."""
        import numpy as np

        if self._at in self._goals or not self._frontier:
            return STOP
        goals = [goal for goal in self._goals if goal not in self._visited] or self._goals
        places = list(self._frontier)
        known = self._ways[self._slots[self._at], [self._slots[place] for place in places]]
        total = known + self._graph.distances[places][:, goals].min(axis=1)
        return self._graph.places[places[int(np.argmin(np.round(total, 9)))]]

    def _walk(self, number: int) -> None:
        self._heading = float(self._graph.heading[self._at, number])
        self.path.append(self._graph.places[number])
        self._arrive(number)

    def _arrive(self, here: int) -> None:
        self._at = here
        if here in self._visited:
            del self._visited[here]
        else:
            self._discover(here)
        self._visited[here] = None

    def _discover(self, here: int) -> None:
        """A place visited for the first time: its neighbours, the ways to them, and the ways that lead through it from now on."""
        import numpy as np

        graph = self._graph
        del self._frontier[here]
        self._words[here] = graph.words[here]
        self._glimpses.pop(here, None)
        for place in graph.neighbors[here]:
            if place in self._visited:
                continue
            self._frontier.setdefault(place)
            self._slots.setdefault(place, len(self._slots))
            self._words[place] = tuple(sorted(graph.towards[here, place].union(self._words.get(place, ()))))
            if self._pictures is not None:
                self._glimpses.setdefault(place, []).append(self._pictures.towards[here, place])
        grown = np.full((len(self._slots), len(self._slots)), np.inf)
        grown[: len(self._ways), : len(self._ways)] = self._ways
        np.fill_diagonal(grown, 0.0)
        beside, slot = [self._slots[place] for place in graph.neighbors[here]], self._slots[here]
        grown[slot, beside] = np.minimum(grown[slot, beside], graph.straight[here, graph.neighbors[here]])
        grown[:, slot] = grown[slot]
        self._ways = np.minimum(grown, grown[slot][:, None] + grown[slot])

    def _route(self, goal: int) -> list[int]:
        """The places after this one on the shortest known way; all but the last are visited ones."""
        graph, at, found = self._graph, self._at, [self._at]
        while at != goal:
            ways = self._ways[self._slots[goal]]
            beside = [place for place in graph.neighbors[at] if place == goal or (place in self._visited and place not in found)]
            _, at = min((float(graph.straight[at, place] + ways[self._slots[place]]), place) for place in beside)
            found.append(at)
        return found[1:]

    def _features(self, order: list[int]) -> "NDArray[np.float32] | None":
        import numpy as np

        if self._pictures is None:
            return None
        seen = [self._pictures.places[place] for place in order[: len(self._visited)]]
        return np.stack([*seen, *(np.mean(self._glimpses[place], axis=0) for place in self._frontier)])


def from_start(graph: Graph, start: int, path: Sequence[str]) -> list[int]:
    """The indices of a path that begins at the start; InputError names what is wrong with it."""
    passed = graph.numbers(path)
    if passed[0] != start:
        raise InputError("the path does not begin at the start", got=path[0], allowed=graph.places[start])
    return passed
