"""What an agent on a graph knows: the map it has built, place by place, as any environment of the house shows it.

A place is *visited*, or it is on the *frontier*: seen from a visited one and not yet visited. An agent acts by going to a place of the
frontier, over ways it knows, or by `STOP`: DUET's global action space (Chen et al., CVPR 2022, 2202.11742, §3.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ratchet.protocols import STOP

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GEOMETRY = ("sin_heading", "cos_heading", "sin_elevation", "cos_elevation", "distance", "walk")
"""Columns of `View.geometry`: of a place as seen from where the agent stands, heading counted from where it looks; the straight
distance and the one over known ways, both in the environment's own unit (`Graphs.unit` metres, cells, …)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The map that an agent has built, N places."""

    places: tuple[str, ...]
    """Names: where it stands, then the others it visited, the latest first, then the frontier in the order it was discovered."""
    visited: int
    """How many of them are visited: `places[:visited]`; the rest is the frontier."""
    geometry: "NDArray[np.float32]"
    """[N, len(GEOMETRY)]"""
    words: tuple[tuple[str, ...], ...]
    """For each place what is seen there, or in its direction while it is on the frontier; each word once."""
    ways: "NDArray[np.float32]"
    """[N, N] lengths of the shortest known ways between places, in the unit of `geometry`."""
    features: "NDArray[np.float32] | None" = None
    """[N, F] image features, where the environment has them: of a frontier place the mean over the views towards it."""

    @property
    def frontier(self) -> tuple[str, ...]:
        return self.places[self.visited :]


@dataclass(frozen=True, kw_only=True, slots=True)
class FloorPlan:
    """What a trajectory is drawn on, seen from above."""

    places: Mapping[str, tuple[float, float]]
    ways: Sequence[tuple[str, str]]
    goals: tuple[str, ...]
    """Where `STOP` succeeds."""


class GraphWalk(Protocol):
    """`ratchet.protocols.Walk`, whose view is a `View`."""

    path: list[str]

    def view(self) -> View: ...

    def step(self, place: str) -> None: ...

    def teacher(self) -> str:
        """A place of the frontier, or `STOP`."""
        ...


class GraphEnvironment(Protocol):
    """An `Environment` whose episodes are walks on a graph."""

    def open(self, episode: Mapping[str, Any]) -> GraphWalk: ...

    def restore(self, episode: Mapping[str, Any], path: Sequence[str]) -> GraphWalk: ...

    def judge(self, episode: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, float]:
        """`success`, `oracle_success`, `spl`, `error` (distance from the goal), `length` and `shortest` (of the path, and of the shortest
        way), `ndtw`; on Matterport graphs also `success_3m`. Lengths are in metres, or in cells."""
        ...

    def shortest(self, episode: Mapping[str, Any]) -> list[str]:
        """The places on the shortest way from the start to the nearest goal, both included."""
        ...

    def vocabulary(self) -> tuple[str, ...]:
        """Every word that a view or an environment's own goal may have, sorted."""
        ...

    def floor(self, episode: Mapping[str, Any]) -> FloorPlan:
        """What the episode is played on."""
        ...


__all__ = ["GEOMETRY", "STOP", "FloorPlan", "GraphEnvironment", "GraphWalk", "View"]
