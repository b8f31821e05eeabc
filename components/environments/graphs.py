"""A building as arrays: positions, shortest ways between all places, directions, and what is seen where and whereto.

Directions are Matterport's: heading 0 is +y and grows clockwise, so that +x is at 90°; elevation is above the horizon.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.components.environments.matterport import VIEWS, Scan, Seen
from ratchet.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECTOR = math.pi / 6
"""Between neighbouring views."""


class Graph:
    """A scan's places by index, and everything that is asked of them often."""

    def __init__(self, scan: Scan) -> None:
        import numpy as np
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import shortest_path

        self.name, self.where, self.places = scan.name, scan.where, scan.places
        self.index = {place: number for number, place in enumerate(scan.places)}
        self.positions: NDArray[np.float64] = np.array(scan.positions)
        offset = self.positions[None, :, :] - self.positions[:, None, :]
        level = np.hypot(offset[..., 0], offset[..., 1])
        self.straight: NDArray[np.float64] = np.linalg.norm(offset, axis=-1)
        self.heading: NDArray[np.float64] = np.arctan2(offset[..., 0], offset[..., 1])
        self.elevation: NDArray[np.float64] = np.arctan2(offset[..., 2], level)
        self.ways = scan.ways
        self.neighbors: list[list[int]] = [[] for _ in scan.places]
        for here, there in scan.ways:
            self.neighbors[here].append(there)
            self.neighbors[there].append(here)
        ends = np.array(scan.ways, dtype=int).reshape(-1, 2).T
        edges = coo_array((self.straight[ends[0], ends[1]], (ends[0], ends[1])), shape=self.straight.shape).tocsr()
        self.distances: NDArray[np.float64]
        self.distances, self._before = shortest_path(edges, method="D", directed=False, return_predecessors=True)
        self.words: list[tuple[str, ...]] = [_words(scan.objects.get(place, ())) for place in scan.places]
        self.sights: dict[str, list[int]] = {}
        for number, place in enumerate(scan.places):
            for seen in scan.objects.get(place, ()):
                self.sights.setdefault(seen.id, []).append(number)
        across = np.rint(self.heading / SECTOR).astype(int) % 12
        self._views: NDArray[np.int64] = across + 12 * (np.rint(self.elevation / SECTOR).astype(int).clip(-1, 1) + 1)
        glimpses = [_by_view(scan.objects.get(place, ())) for place in scan.places]
        both = [*scan.ways, *((there, here) for here, there in scan.ways)]
        self.towards = {(here, there): glimpses[here].get(self.view_towards(here, there), frozenset()) for here, there in both}
        """Way → the words of what is seen along it."""

    def view_towards(self, here: int, there: int) -> int:
        """Which of the 36 views of a place looks towards another one: the one whose centre is nearest."""
        return int(self._views[here, there])

    def path(self, start: int, end: int) -> list[int]:
        """The shortest way, both ends included."""
        found = [end]
        while found[-1] != start:
            found.append(int(self._before[start, found[-1]]))
        return found[::-1]

    @cached_property
    def hops(self) -> "NDArray[np.int64]":
        """[P, P] how many places the shortest way has, both ends included; 0 where there is none."""
        import numpy as np

        count = len(self.places)
        start = np.arange(count)[:, None].repeat(count, axis=1)
        at = np.where(np.isfinite(self.distances), np.arange(count)[None, :], start)
        found = np.isfinite(self.distances).astype(np.int64)
        while (going := at != start).any():
            found += going
            at = np.where(going, self._before[start, at], at)
        return found

    def number(self, place: object, what: str) -> int:
        """A place's index; InputError if the scan has none such."""
        if not isinstance(place, str) or place not in self.index:
            raise InputError(f"{what} is no viewpoint of scan {self.name}", got=repr(place)[:80], allowed=f"the {len(self.places)} of {self.where}")
        return self.index[place]

    def numbers(self, path: Sequence[str]) -> list[int]:
        """A path's indices; InputError names the first step that the graph does not have."""
        if not path:
            raise InputError("the path is empty", allowed="at least the start")
        found = [self.number(place, f"place {position} of the path") for position, place in enumerate(path)]
        for position, (here, there) in enumerate(pairwise(found), start=1):
            if (here, there) not in self.towards:
                raise InputError(
                    f"step {position} of the path goes where there is no way in scan {self.name}", got=" → ".join(path[position - 1 : position + 1])
                )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Image features of a scan: the mean of each place's 36 views, and of each way the view that looks along it."""

    places: "NDArray[np.float32]"
    towards: "dict[tuple[int, int], NDArray[np.float32]]"


def pictures_of(path: Path, graph: Graph) -> Pictures:
    """From HDF5 as published: `SCAN_VIEWPOINT` → [36, F]."""
    import numpy as np

    try:
        import h5py
    except ImportError:
        raise InputError("image features are HDF5, which needs the package h5py", next="pip install h5py, or set features=null") from None

    means: list[NDArray[np.float32]] = []
    towards: dict[tuple[int, int], NDArray[np.float32]] = {}
    try:
        with h5py.File(path, "r") as file:
            for here, place in enumerate(graph.places):
                views = _views(file, f"{graph.name}_{place}", path)
                if means and views.shape[1] != len(means[0]):
                    raise InputError(f"{path}, {graph.name}_{place} has another size", got=views.shape[1], allowed=len(means[0]))
                means.append(views.mean(axis=0))
                towards |= {(here, there): views[graph.view_towards(here, there)].copy() for there in graph.neighbors[here]}
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5 ({error})", next="give the path of an HDF5 file, or fetch it again") from None
    return Pictures(places=np.stack(means), towards=towards)


def _views(file: "dict[str, NDArray[np.float32]]", key: str, path: Path) -> "NDArray[np.float32]":
    import numpy as np

    if key not in file:
        raise InputError(f"{path} has no features of {key}", allowed="every viewpoint of a scan that is used")
    views = np.asarray(file[key][...], dtype=np.float32)
    if views.ndim != 2 or len(views) != VIEWS:
        raise InputError(f"{path}, {key}: features are of the wrong shape", got=list(views.shape), allowed=f"[{VIEWS}, F]")
    if not np.isfinite(views).all():
        raise InputError(f"{path}, {key}: features are not finite", got=f"{int((~np.isfinite(views)).sum())} of {views.size}", next="make them again")
    return views


def _words(objects: Sequence[Seen]) -> tuple[str, ...]:
    return tuple(sorted({word for seen in objects for word in seen.words}))


def _by_view(objects: Sequence[Seen]) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {}
    for seen in objects:
        for view in seen.views:
            found.setdefault(view, set()).update(seen.words)
    return {view: frozenset(words) for view, words in found.items()}
