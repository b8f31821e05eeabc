"""Navigation graphs of scanned buildings, and the objects seen in them, as they are published and as compact JSON Lines.

    graphs    a folder of Matterport3DSimulator's `SCAN_connectivity.json`: [{image_id, pose[16], included, unobstructed[]}, …]
              or .jsonl(.gz): {scan, viewpoints: [{viewpoint, position[3], neighbors[]}, …]}, a scan a line
    objects   a folder of REVERIE's `SCAN_VIEWPOINT.json`: {viewpoint: {id: {name, visible_pos[]}}}
              or .jsonl(.gz): {scan, viewpoint, objects: [{id, name, visible_views[]}, …]}, a viewpoint a line

What the publishers mark as unusable is left out and counted (`Scan.census`); what is broken is an InputError that names file and entry.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.components.tasks.files import rows_of
from ratchet.errors import InputError

VIEWS = 36
"""Of a panorama: 12 headings, 30° apart, at each of the elevations -30°, 0° and 30°."""
CONNECTIVITY = "_connectivity.json"
WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*")

Entry = tuple[str, Any]
"""Where something stands, as `file:line` or `file[index]`, and what stands there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An object as it is seen from a viewpoint."""

    id: str
    words: tuple[str, ...]
    views: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """A building: its usable viewpoints, the ways between them, and what is seen from them."""

    name: str
    where: str
    places: tuple[str, ...]
    positions: tuple[tuple[float, float, float], ...]
    ways: tuple[tuple[int, int], ...]
    """Each once, the smaller index first."""
    objects: Mapping[str, tuple[Seen, ...]]
    """Of each place from which any is seen."""
    census: Mapping[str, int]
    """Entries read, used, and left out by reason."""


class Files:
    """The scans of a graphs file or folder, each read when it is asked for."""

    def __init__(self, graphs: Path, objects: Path | None) -> None:
        self.graphs, self.objects = graphs, objects
        self._graphs = _compact_graphs(graphs) if graphs.is_file() else _published_graphs(graphs)
        self.names = tuple(sorted(self._graphs))
        self._objects, self.strangers = _objects(objects, self._graphs) if objects else ({}, 0)

    def scan(self, name: str) -> Scan:
        if name not in self._graphs:
            few = ", ".join(self.names[:3])
            raise InputError(
                f"{self.graphs} has no scan {name!r}", allowed=f"{len(self.names)} scans: {few}, …", next="add its graph, or mend the name"
            )
        read = self._graphs[name]()
        census: Counter[str] = Counter(read.census)
        objects: dict[str, tuple[Seen, ...]] = {}
        known = set(read.places)
        for viewpoint, where, load in self._objects.get(name, ()):
            if viewpoint in objects:
                raise InputError(f"{where}: the objects of {name}'s viewpoint {viewpoint} stand there twice", next="remove one of them")
            if viewpoint not in known | read.left_out:
                raise InputError(f"{where}: scan {name} has no viewpoint {viewpoint}", next="mend the file, or take the graphs that belong to it")
            objects[viewpoint] = tuple(_seen(load(), viewpoint in known, census))
        return Scan(
            name=name,
            where=read.where,
            places=read.places,
            positions=read.positions,
            ways=read.ways,
            objects={viewpoint: seen for viewpoint, seen in objects.items() if seen and viewpoint in known},
            census=census,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graph:
    where: str
    places: tuple[str, ...]
    positions: tuple[tuple[float, float, float], ...]
    ways: tuple[tuple[int, int], ...]
    left_out: frozenset[str]
    census: Mapping[str, int]


def json_of(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})", next="convert it to UTF-8") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error})", next="mend the file or fetch it again") from None


def value_of(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A value of a JSON object, which has to be of a kind."""
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is not a JSON object", got=repr(entry)[:80])
    if key not in entry:
        raise InputError(f"{where} has no key {key!r}", got=", ".join(sorted(entry)) or "no keys")
    value = entry[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise InputError(f"{where}: {key!r} is of the wrong kind", got=repr(value)[:80], allowed=names)
    return value


def _numbers(values: Any, count: int, what: str) -> tuple[float, ...]:
    right = isinstance(values, list) and len(values) == count
    if not right or not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values):
        raise InputError(f"{what} is not {count} finite numbers", got=repr(values)[:80], next="mend or remove the entry")
    return tuple(float(one) for one in values)


def _compact_graphs(path: Path) -> dict[str, Callable[[], _Graph]]:
    found: dict[str, Callable[[], _Graph]] = {}
    lines: dict[str, int] = {}
    for number, row in rows_of(path):
        where = f"{path}:{number}"
        name = value_of(row, "scan", str, where)
        if (before := lines.setdefault(name, number)) != number:
            raise InputError(f"{where}: scan {name} stands in line {before} already", next="remove one of them")
        found[name] = lambda row=row, where=where: _compact_graph(row, where)  # type: ignore[misc]
    return found


def _compact_graph(row: Mapping[str, Any], where: str) -> _Graph:
    entries = [(f"{where}, viewpoints[{index}]", entry) for index, entry in enumerate(value_of(row, "viewpoints", list, where))]
    index = _numbered([(at, value_of(entry, "viewpoint", str, at)) for at, entry in entries], where)
    positions = [_numbers(value_of(entry, "position", list, at), 3, f"{at}: the position") for at, entry in entries]
    towards: set[tuple[int, int]] = set()
    for here, (at, entry) in enumerate(entries):
        for neighbor in value_of(entry, "neighbors", list, at):
            if not isinstance(neighbor, str) or neighbor not in index:
                raise InputError(f"{at}: the neighbour does not exist", got=neighbor, allowed="viewpoints of the same scan")
            towards.add((here, index[neighbor]))
    ways = _two_way(towards, [at for at, _ in entries])
    census = {"scans": 1, "viewpoints": len(index), "viewpoints.used": len(index), "ways": len(ways), "ways.used": len(ways)}
    return _Graph(where=where, places=tuple(index), positions=_triples(positions), ways=ways, left_out=frozenset(), census=census)


def _published_graphs(folder: Path) -> dict[str, Callable[[], _Graph]]:
    files = sorted(folder.glob(f"*{CONNECTIVITY}")) if folder.is_dir() else []
    if not files:
        allowed = f"a folder of SCAN{CONNECTIVITY} files, or scans as .jsonl or .jsonl.gz"
        raise InputError(f"{folder} holds no navigation graphs", allowed=allowed, next="give the path of one that does")
    return {path.name.removesuffix(CONNECTIVITY): lambda path=path: _published_graph(path) for path in files}  # type: ignore[misc]


def _published_graph(path: Path) -> _Graph:
    listed = json_of(path)
    if not isinstance(listed, list):
        raise InputError(f"{path} is not a list of viewpoints", got=type(listed).__name__)
    entries = [(f"{path}[{index}]", entry) for index, entry in enumerate(listed)]
    names = list(_numbered([(at, value_of(entry, "image_id", str, at)) for at, entry in entries], str(path)))
    included = [value_of(entry, "included", bool, at) for at, entry in entries]
    poses = [_numbers(value_of(entry, "pose", list, at), 16, f"{at}: the pose") for at, entry in entries]
    towards: set[tuple[int, int]] = set()
    for here, (at, entry) in enumerate(entries):
        open_to = value_of(entry, "unobstructed", list, at)
        if len(open_to) != len(entries) or not all(isinstance(flag, bool) for flag in open_to):
            raise InputError(f"{at}: 'unobstructed' is not a true or false for each of {len(entries)} viewpoints", got=f"{len(open_to)} values")
        towards |= {(here, there) for there, flag in enumerate(open_to) if flag}
    every = _two_way(towards, [at for at, _ in entries])
    kept = {old: new for new, old in enumerate(index for index, flag in enumerate(included) if flag)}
    ways = tuple((kept[a], kept[b]) for a, b in every if a in kept and b in kept)
    census = {"scans": 1, "viewpoints": len(names), "viewpoints.used": len(kept), "viewpoints.not_included": len(names) - len(kept)}
    census |= {"ways": len(every), "ways.used": len(ways), "ways.to_a_viewpoint_not_included": len(every) - len(ways)}
    return _Graph(
        where=str(path),
        places=tuple(names[old] for old in kept),
        positions=_triples([(poses[old][3], poses[old][7], poses[old][11]) for old in kept]),
        ways=ways,
        left_out=frozenset(name for name, flag in zip(names, included, strict=True) if not flag),
        census=census,
    )


def _numbered(names: list[tuple[str, str]], where: str) -> dict[str, int]:
    if not names:
        raise InputError(f"{where} has no viewpoints", next="remove it, or fetch it again")
    index: dict[str, int] = {}
    for number, (at, name) in enumerate(names):
        if not name or name.split() != [name]:
            raise InputError(f"{at}: a viewpoint is named without blanks", got=repr(name))
        if name in index:
            raise InputError(f"{at}: the viewpoint stands there twice", got=name, next="remove one of them")
        index[name] = number
    return index


def _two_way(towards: set[tuple[int, int]], places: list[str]) -> tuple[tuple[int, int], ...]:
    """Ways as unordered pairs: who can go there can come back."""
    for here, there in sorted(towards):
        if here == there:
            raise InputError(f"{places[here]}: a viewpoint is its own neighbour", next="mend the entry")
        if (there, here) not in towards:
            raise InputError(
                f"{places[here]}: the way to entry {there} does not lead back", allowed="ways in both directions", next="mend one of them"
            )
    return tuple(sorted((here, there) for here, there in towards if here < there))


def _triples(positions: list[Any]) -> tuple[tuple[float, float, float], ...]:
    return tuple((x, y, z) for x, y, z in positions)


Load = Callable[[], list[Entry]]


def _objects(path: Path, graphs: Mapping[str, Any]) -> tuple[dict[str, list[tuple[str, str, Load]]], int]:
    """Scan → viewpoint, where, and what loads its objects; and how many viewpoints belong to scans without a graph."""
    found: dict[str, list[tuple[str, str, Load]]] = {}
    listed = _compact_objects(path, graphs) if path.is_file() else _published_objects(path)
    strangers = 0
    for scan, viewpoint, where, load in listed:
        if scan in graphs:
            found.setdefault(scan, []).append((viewpoint, where, load))
        else:
            strangers += 1
    return found, strangers


def _compact_objects(path: Path, graphs: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Load]]:
    for number, row in rows_of(path):
        where = f"{path}:{number}"
        scan, listed = value_of(row, "scan", str, where), value_of(row, "objects", list, where)
        if scan not in graphs:
            raise InputError(f"{where}: there is no graph of scan {scan!r}", next="add its graph, or remove the line")
        entries = [(f"{where}, objects[{index}]", entry) for index, entry in enumerate(listed)]
        yield scan, value_of(row, "viewpoint", str, where), where, lambda entries=entries: entries  # type: ignore[misc]


def _published_objects(folder: Path) -> Iterator[tuple[str, str, str, Load]]:
    """The publisher's folder covers every scan, so one without a graph here is counted and no error."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder} holds no objects", allowed="a folder of SCAN_VIEWPOINT.json files, or .jsonl or .jsonl.gz")
    for path in files:
        scan, parted, viewpoint = path.stem.rpartition("_")
        if not parted:
            raise InputError(f"{path} does not say whose objects it holds", allowed="SCAN_VIEWPOINT.json")
        yield scan, viewpoint, str(path), lambda path=path, viewpoint=viewpoint: _published_entries(path, viewpoint)  # type: ignore[misc]


def _published_entries(path: Path, viewpoint: str) -> list[Entry]:
    listed = value_of(json_of(path), viewpoint, dict, str(path))
    entries = []
    for id, entry in listed.items():
        where = f"{path}, object {id}"
        entries.append((where, {"id": id, "name": value_of(entry, "name", str, where), "visible_views": value_of(entry, "visible_pos", list, where)}))
    return entries


def _seen(entries: list[Entry], used: bool, census: Counter[str]) -> Iterator[Seen]:
    """The objects that count as seen from a viewpoint: in one of its views, under a name that has a word."""
    ids: set[str] = set()
    for where, entry in entries:
        id, name, views = value_of(entry, "id", (int, str), where), value_of(entry, "name", str, where), value_of(entry, "visible_views", list, where)
        if not name.strip():
            raise InputError(f"{where}: the object has no name", got=entry, next="name it, or remove it")
        if str(id) in ids:
            raise InputError(f"{where}: the object stands there twice", got=id, next="remove one of them")
        if not all(isinstance(view, int) and not isinstance(view, bool) and 0 <= view < VIEWS for view in views):
            raise InputError(f"{where}: there is no such view", got=views, allowed=f"0 to {VIEWS - 1}")
        ids.add(str(id))
        words = tuple(WORD.findall(name.lower()))
        reason = "at_a_viewpoint_not_included" if not used else "in_no_view" if not views else "without_a_word" if not words else "used"
        census["objects"] += 1
        census[f"objects.{reason}"] += 1
        if reason == "used":
            yield Seen(id=str(id), words=words, views=tuple(views))
