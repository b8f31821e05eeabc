"""Walks on an instruction judged by the path that it tells: did the navigator go where the path leads, and as the path goes?

    spl     success · length(path) / max(length(walk), length(path))               the reward
    ndtw    exp(-DTW(walk, path) / (places of the path · near))                    (Ilharco et al., 1907.05446)

A rollout's reference is the path, as actions. Success is the environment's own: the walk stopped where the path's goal is. A walk that
was cut has an spl of 0. Both numbers are against the path told, not against the shortest way of an all-knowing walker, which for one who
has to look round corners may not exist. DTW goes by distances along the ways of the floor plan, seen from above.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import hypot, inf
from pathlib import Path
from typing import Any

from ratchet.components.environments.views import FloorPlan
from ratchet.components.environments.warping import ndtw
from ratchet.components.verification.goal import episode_of, path_of
from ratchet.errors import InputError
from ratchet.records import Outcome, Rollout


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Right if the navigator, told the instruction, stops where the path does."""

    environment: Any
    """A `GraphEnvironment`."""
    near: float = 3.0
    """The distance at which nDTW calls two places near, in the environment's lengths: R2R's 3 m, or 3 cells."""
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.near < inf:
            raise InputError("near is a length", got=self.near, allowed="above 0")
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise InputError("rows_per_shard is too small", got=self.rows_per_shard, allowed="1, 2, … or null")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in rollouts:
            outcome, answer, scores = self._judge(rollout)
            yield replace(rollout, answer=answer, outcome=outcome, reward=scores["spl"], scores=scores)

    def _judge(self, rollout: Rollout) -> tuple[Outcome, str | None, dict[str, float]]:
        walk, told = path_of(self.environment, rollout), self._told(rollout)
        if walk is None:
            return "unparsed", None, {"spl": 0.0, "ndtw": 0.0}
        found, wanted = (self.environment.judge(rollout.episode, path) for path in (walk, told))
        success = rollout.finished and found["success"] == 1
        longest = max(found["length"], wanted["length"])
        spl = float(success) * (wanted["length"] / longest if longest else 1.0)
        return "correct" if success else "wrong", walk[-1], {"spl": spl, "ndtw": self._ndtw(rollout, walk, told)}

    def _told(self, rollout: Rollout) -> list[str]:
        """The path that was told, as places."""
        path = path_of(self.environment, replace(rollout, completion=rollout.reference or "", finished=True))
        if path is None:
            what = f"the reference of problem {rollout.problem_id} is no path that its episode offers"
            raise InputError(what, got=repr(rollout.reference)[:200], allowed="actions, `stop` the last", next="select problems with Instructions")
        return path

    def _ndtw(self, rollout: Rollout, walk: Sequence[str], told: Sequence[str]) -> float:
        if list(walk) == list(told):
            return 1.0
        return ndtw(_distances(self.environment.floor(episode_of(rollout)), walk, told), self.near)


def _distances(floor: FloorPlan, walk: Sequence[str], told: Sequence[str]) -> list[list[float]]:
    """[walk, told] lengths of the shortest ways between their places, on the floor plan."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    number = {place: at for at, place in enumerate(floor.places)}
    # a way that is left out of the plan is one that was walked: those count too
    ways = [*floor.ways, *pairwise(walk), *pairwise(told)]
    ends = np.array([(number[here], number[there]) for here, there in ways if here != there])
    lengths = [_straight(floor, here, there) for here, there in ways if here != there]
    given = dict(zip(map(tuple, np.sort(ends, axis=1).tolist()), lengths, strict=True))
    rows, columns = np.array(list(given)).T
    graph = csr_array((list(given.values()), (rows, columns)), shape=(len(number), len(number)))
    far = dijkstra(graph, directed=False, indices=[number[place] for place in told])
    found: list[list[float]] = far[:, [number[place] for place in walk]].T.tolist()
    return found


def _straight(floor: FloorPlan, here: str, there: str) -> float:
    (x, y), (other_x, other_y) = floor.places[here], floor.places[there]
    return hypot(x - other_x, y - other_y)
