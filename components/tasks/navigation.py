"""Problems of going somewhere: pairs of a start and a goal on navigation graphs, and published instructions (REVERIE, R2R, SOON).

Splits are of scans, so that test buildings are never seen before: of all scans of the environment, in the order of the SHA-256 of their
names, the first `held_out` are test, the next `dev_scans` are dev, the rest train. It hangs on no seed and is the same for every task.
The train scans' problems are parted into `worked` (the first `worked_share`, in an order drawn by `problem_seed`) and `train`. Problems
of a scan stand together, scans in the order of their names. There is no prm split.

A problem's solution is a path, blank-separated; its reference are the goals, blank-separated; its group is the scan.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ratchet.components.environments.graphs import Graph
from ratchet.components.environments.matterport import Entry, json_of, value_of
from ratchet.components.environments.vln_graph import VLNGraph
from ratchet.components.tasks.files import rows_of
from ratchet.components.tasks.splits import Split, check_split
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.records import Problem

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class GoalPairs:
    """Image goals without images (SID, 2509.24910): go where these objects are seen.

    A problem is a start and a goal whose shortest way has `min_places` to `max_places` places; it is told as the words of what is seen
    at the goal, sorted. Only a place whose words no other place of its scan has is a goal, so that no problem has two answers.
    """

    environment: VLNGraph
    split: Split = "train"
    per_scan: int = 40
    """Problems of the split in each of its scans, or as many as the scan has."""
    min_places: int = 5
    max_places: int = 7
    held_out: int = 12
    """Test scans."""
    dev_scans: int = 6
    worked_share: float = 0.5
    """Of a train scan's pairs, before `per_scan` cuts them."""
    problem_seed: int = 0

    def __post_init__(self) -> None:
        _check(self.split, self.worked_share, per_scan=self.per_scan, held_out=self.held_out, dev_scans=self.dev_scans)
        if not 2 <= self.min_places <= self.max_places:
            raise InputError("a way has at least 2 places", got=(self.min_places, self.max_places), allowed="2 ≤ min_places ≤ max_places")

    def propose(self) -> Iterator[Problem]:
        for scan in scans_of(self.environment, self.split, held_out=self.held_out, dev_scans=self.dev_scans):
            graph = self.environment.graph(scan)
            pairs = _part(self.pairs(graph), self.split, self.worked_share, derive_seed(self.problem_seed, "pairs", scan))
            for start, goal in sorted(pairs[: self.per_scan]):
                yield self._problem(graph, start, goal)

    def pairs(self, graph: Graph) -> list[tuple[int, int]]:
        """Every pair that would do."""
        import numpy as np

        told = Counter(graph.words)
        clear = np.array([bool(words) and told[words] == 1 for words in graph.words])
        fits = (graph.hops >= self.min_places) & (graph.hops <= self.max_places) & clear[None, :]
        return [(int(start), int(goal)) for start, goal in np.argwhere(fits)]

    def _problem(self, graph: Graph, start: int, goal: int) -> Problem:
        path = [graph.places[place] for place in graph.path(start, goal)]
        return Problem(
            id=f"{graph.name}/{path[0]}/{path[-1]}",
            prompt=" ".join(graph.words[goal]),
            reference=path[-1],
            solution=" ".join(path),
            difficulty=len(path),
            episode={"scan": graph.name, "start": path[0], "goals": [path[-1]]},
            group=graph.name,
        )


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """A problem an instruction, from files as published (.json) or with an episode a line (.jsonl, .jsonl.gz).

    Goals are, with an `objId` (REVERIE), the viewpoints from which the object is seen (REVERIE's objects are annotated within 3 m), or the
    path's end if there are none; with `bboxes` (SOON) the viewpoints of the boxes; else (R2R) the path's end. The solution is the path
    given. Ids are the episode's `id` or `path_id` (SOON: its number in the file, and the path's) and the instruction's number.

    Without a `test_file` the test problems are those of `train_file` in the test scans, and `train` leaves these out; with one, they are
    all that it has, whatever their scans, as is the custom with the published splits. The same goes for `dev_file`.
    """

    environment: VLNGraph
    split: Split = "train"
    train_file: Path
    dev_file: Path | None = None
    test_file: Path | None = None
    per_scan: int | None = None
    """At most so many problems of the split in each scan, drawn by the seed; None: all."""
    held_out: int = 12
    """Test scans."""
    dev_scans: int = 6
    worked_share: float = 0.5
    """Of a train scan's episodes; an episode's instructions stay together."""
    problem_seed: int = 0

    def __post_init__(self) -> None:
        _check(self.split, self.worked_share, per_scan=self.per_scan, held_out=self.held_out, dev_scans=self.dev_scans)

    def propose(self) -> Iterator[Problem]:
        own = {"dev": self.dev_file, "test": self.test_file}.get(self.split)
        episodes = self._episodes(own or self.train_file)
        for scan in sorted(episodes) if own else self._scans():
            drawn = self._drawn(episodes.get(scan, []), scan)
            yield from (problem for _, problem in sorted(drawn, key=lambda item: item[0]))

    def _drawn(self, episodes: list[list[Problem]], scan: str) -> list[tuple[tuple[int, int], Problem]]:
        """The split's problems of a scan, each with its place in the file."""
        numbered = [[((at, index), problem) for index, problem in enumerate(problems)] for at, problems in enumerate(episodes)]
        parted = _part(numbered, self.split, self.worked_share, derive_seed(self.problem_seed, "instructions", scan))
        return [item for problems in parted for item in problems][: self.per_scan]

    def _scans(self) -> list[str]:
        """Of `train_file`; train has those of a split with a file of its own, too."""
        own = [name for name, file in (("dev", self.dev_file), ("test", self.test_file)) if file]
        parts = ["train", *own] if self.split in ("train", "worked") else [self.split]
        return sorted(scan for name in parts for scan in scans_of(self.environment, name, held_out=self.held_out, dev_scans=self.dev_scans))

    def _episodes(self, path: Path) -> dict[str, list[list[Problem]]]:
        """Scan → its episodes, each the problems of its instructions, in the order of the file."""
        found: dict[str, list[list[Problem]]] = {}
        first: dict[str, str] = {}
        for number, (where, entry) in enumerate(_entries(path)):
            for id, given, goals, instructions in self._read(entry, where, number):
                if (before := first.setdefault(id, where)) != where:
                    raise InputError(f"{where} has the id of {before}", got=id, next="give every episode an id of its own")
                episode = self._episode(entry, given, goals, where)
                problems = [_problem(f"{id}/{index}", text, given, episode) for index, text in enumerate(instructions)]
                found.setdefault(episode["scan"], []).append(problems)
        return found

    def _read(self, entry: Any, where: str, number: int) -> Iterator[tuple[str, list[str], list[str], list[str]]]:
        """An entry's paths: id, path, goals, instructions."""
        paths = value_of(entry, "path", list, where)
        instructions = [_text(one, where) for one in value_of(entry, "instructions", list, where)]
        if not paths or not instructions:
            raise InputError(f"{where} has no path or no instruction", next="mend or remove the entry")
        if isinstance(paths[0], list):
            goals = list(dict.fromkeys(value_of(box, "image_id", str, f"{where}, bboxes") for box in value_of(entry, "bboxes", list, where)))
            yield from ((f"{entry.get('id', number)}.{index}", path, goals, instructions) for index, path in enumerate(paths))
            return
        id = entry["id"] if "id" in entry else value_of(entry, "path_id", (int, str), where)
        yield str(id), paths, self._sights(entry, where) or paths[-1:], instructions

    def _sights(self, entry: Mapping[str, Any], where: str) -> list[str]:
        """From where the object of an entry is seen."""
        if entry.get("objId") is None:
            return []
        try:
            return list(self.environment.seen_from(_scan_of(entry, where), str(entry["objId"])))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def _episode(self, entry: Mapping[str, Any], path: list[str], goals: list[str], where: str) -> dict[str, Any]:
        """What the environment opens, tried on the path given."""
        if len(path) < 2:
            next = "a published test file withholds its paths; take one that has them"
            raise InputError(f"{where}: the path has no goal", got=f"{len(path)} places", allowed="2 or more", next=next)
        episode = {"scan": _scan_of(entry, where), "start": path[0], "heading": entry.get("heading", 0.0), "goals": goals}
        try:
            self.environment.judge(episode, path)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return episode


def _problem(id: str, text: str, path: list[str], episode: Mapping[str, Any]) -> Problem:
    goals, solution = " ".join(episode["goals"]), " ".join(path)
    return Problem(id=id, prompt=text, reference=goals, solution=solution, difficulty=len(path), episode=episode, group=episode["scan"])


def scans_of(environment: VLNGraph, split: str, *, held_out: int, dev_scans: int) -> list[str]:
    """The scans of a split, sorted; worked problems are of train scans."""
    ranked = sorted(environment.scans(), key=lambda scan: hashlib.sha256(scan.encode()).hexdigest())
    if held_out + dev_scans > len(ranked):
        got = f"held_out {held_out}, dev_scans {dev_scans}"
        raise InputError("there are not so many scans to hold out", got=got, allowed=f"at most {len(ranked)} in all")
    parts = {"test": ranked[:held_out], "dev": ranked[held_out : held_out + dev_scans], "train": ranked[held_out + dev_scans :]}
    return sorted(parts["train" if split == "worked" else split])


def _part(items: Sequence[T], split: str, share: float, seed: int) -> list[T]:
    """What a split gets of a scan's items, in drawn order."""
    order = random.Random(seed).sample(range(len(items)), len(items))
    cut = round(share * len(order))
    parts = {"worked": order[:cut], "train": order[cut:]}
    return [items[number] for number in parts.get(split, order)]


def _check(split: str, worked_share: float, **counts: int | None) -> None:
    check_split(split)
    if split == "prm":
        raise InputError("navigation has no prm split", allowed="worked, train, dev, test", next="set process_reward=null")
    if not 0 <= worked_share <= 1:
        raise InputError("worked_share is a share", got=worked_share, allowed="0 to 1")
    for name, count in counts.items():
        if count is not None and count < 0:
            raise InputError(f"{name} counts something", got=count, allowed="0 or more")


def _entries(path: Path) -> list[Entry]:
    if path.suffix != ".json":
        return [(f"{path}:{number}", row) for number, row in rows_of(path)]
    if not path.is_file():
        raise InputError(f"{path} is not a file", allowed="a list of episodes as .json, or .jsonl or .jsonl.gz")
    listed = json_of(path)
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path} is not a list of episodes", got=repr(listed)[:80])
    return [(f"{path}[{index}]", entry) for index, entry in enumerate(listed)]


def _scan_of(entry: Mapping[str, Any], where: str) -> str:
    """SOON says it in its boxes."""
    if "scan" in entry:
        return str(value_of(entry, "scan", str, where))
    boxes = value_of(entry, "bboxes", list, where)
    scans = {value_of(box, "scan", str, f"{where}, bboxes") for box in boxes}
    if len(scans) != 1:
        raise InputError(f"{where} does not say in which scan it is", got=sorted(scans) or "no boxes", allowed="one scan")
    return str(scans.pop())


def _text(instruction: Any, where: str) -> str:
    """SOON's instructions are lists that go from the object to everything; the last says all."""
    text = instruction[-1] if isinstance(instruction, list) and instruction else instruction
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where} has an instruction that is no text", got=repr(instruction)[:80], next="mend or remove it")
    return text.strip()
