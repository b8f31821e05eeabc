"""BabyAI's levels (Chevalier-Boisvert et al., 1810.08272) as `minigrid` generates them, reduced to what a walk in them needs.

A level is a grid of rooms with doors between them, some keys, balls and boxes, and a mission such as `go to the red ball`. A cell is
one number, y * width + x; the outermost cells are walls, so the four neighbours of a cell on which one can stand are always cells.

Only levels whose missions a walk can fulfil are supported: `go to` an object, no locked door. A mission is fulfilled where minigrid's
own verifier says so of an agent that looks about in a cell; nothing moves but doors, so that is settled once, when a level is made.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from io import StringIO
from typing import Any

from ratchet.errors import InputError

LEVELS = (
    "BabyAI-GoToRedBallGrey-v0", "BabyAI-GoToRedBall-v0", "BabyAI-GoToRedBallNoDists-v0", "BabyAI-GoToRedBlueBall-v0", "BabyAI-GoToObj-v0",
    "BabyAI-GoToObjS4-v0", "BabyAI-GoToObjS6-v1", "BabyAI-GoToLocal-v0", "BabyAI-GoToLocalS5N2-v0", "BabyAI-GoToLocalS6N2-v0",
    "BabyAI-GoToLocalS6N3-v0", "BabyAI-GoToLocalS6N4-v0", "BabyAI-GoToLocalS7N4-v0", "BabyAI-GoToLocalS7N5-v0", "BabyAI-GoToLocalS8N2-v0",
    "BabyAI-GoToLocalS8N3-v0", "BabyAI-GoToLocalS8N4-v0", "BabyAI-GoToLocalS8N5-v0", "BabyAI-GoToLocalS8N6-v0", "BabyAI-GoToLocalS8N7-v0",
    "BabyAI-GoToObjMazeS4R2-v0", "BabyAI-GoToObjMazeS4-v0", "BabyAI-GoToObjMazeS5-v0", "BabyAI-GoToObjMazeS6-v0", "BabyAI-GoToObjMazeS7-v0",
    "BabyAI-GoToObjMaze-v0", "BabyAI-GoToObjMazeOpen-v0", "BabyAI-GoTo-v0", "BabyAI-GoToOpen-v0",
)  # fmt: skip
"""Minigrid's levels whose missions are to go to an object. Not among them: GoToDoor and GoToObjDoor (a walk goes through doors and does
not stop before them), GoToImpUnlock (needs a key) and GoToSeq (several goals)."""
SIZED = re.compile(r"BabyAI-GoTo(Open)?S(\d+)R(\d+)N(\d+)-v0")
"""More mazes of the class of BabyAI-GoTo-v0 and BabyAI-GoToOpen-v0, named as BabyAI names sizes: S cells a room from wall to wall, R
rooms a side, N objects. Minigrid makes them as well as its own, for it takes the sizes as arguments."""
COLOURS = ("blue", "green", "grey", "purple", "red", "yellow")
TYPES = ("ball", "box", "key")
VIEW = 7
"""Cells that the agent sees ahead, its own included, and from side to side."""
CACHED = 2048
"""Levels that a process remembers, some 20 kB each; to make one takes 5 to 15 ms, nearly all of it minigrid's."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A generated level."""

    width: int
    start: int
    heading: int
    """Where the agent looks at the start: 0 … 3 for right, down, left, up, as in minigrid."""
    mission: str
    things: Mapping[int, tuple[str, str]]
    """Cell → colour and type of the object in it."""
    doors: Mapping[int, str]
    """Cell → colour."""
    clear: frozenset[int]
    """Cells that can be looked through at the start: all but walls and closed doors."""
    walkable: frozenset[int]
    """Cells on which one can stand: empty ones and doors."""
    goals: frozenset[int]
    """Cells in which the verifier accepts an agent that looks about."""

    @cached_property
    def steps(self) -> tuple[int, int, int, int]:
        """What is added to a cell to get its neighbour to the right, down, left, up."""
        return 1, self.width, -1, -self.width

    @cached_property
    def remaining(self) -> dict[int, int]:
        """Cells to go from a cell to the nearest goal."""
        return self.distances(self.goals, self.walkable)

    def distances(self, starts: Iterable[int], cells: Iterable[int]) -> dict[int, int]:
        """Cells to go to each of `cells` from the nearest start, nearest first; those that cannot be reached are left out."""
        left = set(cells).difference(starts)
        far = dict.fromkeys(starts, 0)
        for cell in (queue := list(far)):
            for step in self.steps:
                if (beside := cell + step) in left:
                    left.remove(beside)
                    far[beside] = far[cell] + 1
                    queue.append(beside)
        return far

    def name(self, cell: int) -> str:
        return f"{cell % self.width},{cell // self.width}"

    def cell(self, name: str) -> int | None:
        """The cell of a name; None if it names none on which one can stand."""
        x, _, y = name.partition(",")
        if not (x.isdecimal() and y.isdecimal()):
            return None
        cell = int(y) * self.width + int(x)
        return cell if cell in self.walkable and name == self.name(cell) else None


def check_level(level: str) -> None:
    sizes = SIZED.fullmatch(level)
    if level not in LEVELS and sizes is None:
        allowed = ", ".join(LEVELS) + "; or a maze of your own such as BabyAI-GoToS5R3N6-v0 or BabyAI-GoToOpenS5R3N6-v0"
        what = "a walk cannot fulfil the missions of this level, or there is no such level"
        raise InputError(what, got=level, allowed=allowed, next="choose one of these")
    if sizes:
        size, rooms, objects = (int(number) for number in sizes.groups()[1:])
        most = rooms**2 * (size - 2) ** 2 // 5
        if not (4 <= size <= 32 and 1 <= rooms <= 8 and 1 <= objects <= most):
            allowed = f"S from 4 to 32, R from 1 to 8, N from 1 to a fifth of the floor ({most} here), that no object bars the way to another"
            raise InputError("such a maze cannot be made", got=level, allowed=allowed)


def visible(level: Level, cell: int, heading: int, clear: Collection[int]) -> Iterator[int]:
    """The cells that minigrid shows an agent, nearest row first.

    Its rule (`Grid.process_vis`): in a row, sight spreads to both sides through what is clear; a clear cell that is seen shows the next
    row's cell before it and the two beside that. Here a row is a number, and its bits are cells from left to right. The outermost cells
    of a level are walls, so nothing beyond them is ever reached. Minigrid shows the agent's own cell as empty even where it is a door;
    the agent saw that door before it went in."""
    ahead, right = level.steps[heading], level.steps[(heading + 1) % 4]
    all_of_it, side = (1 << VIEW) - 1, VIEW // 2
    seen, row = 1 << side, cell - side * right
    for _ in range(VIEW):
        through = sum(1 << bit for bit in range(VIEW) if row + bit * right in clear)
        reached = 0
        while seen != reached:
            reached, sight = seen, seen & through
            seen |= (sight << 1 | sight >> 1) & all_of_it
        yield from (row + bit * right for bit in range(VIEW) if seen >> bit & 1)
        sight = seen & through
        seen, row = (sight | sight << 1 | sight >> 1) & all_of_it, row + ahead


@lru_cache(maxsize=CACHED)
def generate(level: str, seed: int) -> Level:
    """The level that minigrid makes from a seed, the same on every machine."""
    world = _world(level)
    with redirect_stdout(StringIO()):  # minigrid prints every draft that it rejects
        world.reset(seed=seed)
    width = int(world.grid.width)
    filled = {cell: thing for cell, thing in enumerate(world.grid.grid) if thing is not None}
    doors = {cell: thing.color for cell, thing in filled.items() if thing.type == "door"}
    walkable = frozenset(range(len(world.grid.grid))) - filled.keys() | doors.keys()
    things = {cell: (thing.color, thing.type) for cell, thing in filled.items() if thing.type in TYPES}
    return Level(
        width=width,
        start=int(world.agent_pos[1]) * width + int(world.agent_pos[0]),
        heading=int(world.agent_dir),
        mission=str(world.mission),
        things=things,
        doors=doors,
        clear=frozenset(cell for cell in walkable | things.keys() if cell not in filled or filled[cell].see_behind()),
        walkable=walkable,
        goals=frozenset(cell for cell in walkable if _looks_about_well(world, cell % width, cell // width)),
    )


def _looks_about_well(world: Any, x: int, y: int) -> bool:
    """Whether the level's own verifier accepts an agent in a cell, looking in one of the four directions.

    It is told of a turn and then of `done`: under BABYAI_DONE_ACTIONS it accepts nothing but a `done` after what fits the mission."""
    world.agent_pos = (x, y)
    for heading in range(4):
        world.agent_dir = heading
        world.instrs.verify(world.actions.left)
        if world.instrs.verify(world.actions.done) == "success":
            return True
    return False


@cache
def _world(level: str) -> Any:
    """One instance of a level, made anew by every `reset`."""
    check_level(level)
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # else a greeting on stdout, in every job
    import gymnasium
    from minigrid.envs.babyai.goto import GoTo  # importing minigrid registers its levels

    if sizes := SIZED.fullmatch(level):
        size, rooms, objects = (int(number) for number in sizes.groups()[1:])
        return GoTo(room_size=size, num_rows=rooms, num_cols=rooms, num_dists=objects, doors_open=bool(sizes[1]))
    return gymnasium.make(level, disable_env_checker=True).unwrapped
