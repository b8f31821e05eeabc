"""A walk in a BabyAI level: what the agent does in minigrid, what that shows it, and which landmarks it makes of it."""

from collections.abc import Iterator, Sequence
from math import hypot
from typing import TYPE_CHECKING

from ratchet.components.environments.babyai_levels import Level, visible
from ratchet.components.environments.views import GEOMETRY, STOP, View
from ratchet.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNSEEN = ("unseen",)


class GridWalk:
    """An open episode."""

    def __init__(self, level: Level, unit: float) -> None:
        self.path = [level.name(level.start)]
        self.actions: list[str] = []
        """Minigrid's actions so far: `left`, `right`, `forward`, `toggle`."""
        self.seen: dict[int, None] = {}
        """The cells that minigrid has shown, in the order it did."""
        self._level, self._unit = level, unit
        self._here, self._heading = level.start, level.heading
        self._clear = set(level.clear)
        self._visited = [level.start]
        self._stands: dict[int, int] = {}  # object → the cell from which it can be faced
        self._frontier: dict[int, tuple[str, ...]] = {}  # in the order of discovery, with words
        self._look()
        self._arrive()

    def view(self) -> View:
        import numpy as np

        level, shown = self._level, len(self._visited)
        cells = [*reversed(self._visited), *self._offered]
        ways = np.zeros((len(cells), len(cells)), dtype=np.float32)
        for row, cell in enumerate(cells):
            far = level.distances([cell], self._floor)
            ways[row] = [far[other] / self._unit for other in cells]
        return View(
            places=tuple(level.name(cell) for cell in cells),
            visited=shown,
            geometry=self._geometry(cells, ways[0]),
            words=(*(self._at_hand(cell) for cell in cells[:shown]), *(self._frontier[cell] for cell in cells[shown:])),
            ways=ways,
        )

    def step(self, place: str) -> None:
        target = self._level.cell(place)
        if target is None or target not in self._offered:
            allowed = " ".join(self._level.name(cell) for cell in self._offered) or f"none, only {STOP}"
            raise InputError(f"{self.path[-1]} offers no such place to go to", got=place, allowed=allowed)
        for cell in self._way(target):
            self._go(cell)
        self._visited.append(target)
        self._arrive()

    def teacher(self) -> str:
        """The place with the shortest way over it: known up to it, true from it to the goal. An object that was visited and left cannot
        be stopped at any more, so it counts only where no other will do; with nothing left to go to the answer is `STOP`."""
        offered, level = self._offered, self._level
        if self._here in level.goals or not offered:
            return STOP
        remaining = level.remaining
        if not level.goals.isdisjoint(self._visited):
            missed = {thing + step for thing, stand in self._stands.items() if stand in self._visited for step in level.steps}
            remaining = level.distances(sorted(level.goals - missed or level.goals), level.walkable)
        return level.name(min(offered, key=lambda cell: offered[cell] + remaining.get(cell, len(level.walkable))))

    # What it does in minigrid

    def _go(self, cell: int) -> None:
        """One cell further, through the door if one is there."""
        self._turn(self._level.steps.index(cell - self._here))
        if cell not in self._clear:
            self._clear.add(cell)
            self._act("toggle")
        self._here = cell
        self.path.append(self._level.name(cell))
        self._act("forward")

    def _turn(self, heading: int) -> None:
        turns = (heading - self._heading) % 4
        action, by, times = ("left", -1, 1) if turns == 3 else ("right", 1, turns)
        for _ in range(times):
            self._heading = (self._heading + by) % 4
            self._act(action)

    def _act(self, action: str) -> None:
        self.actions.append(action)
        self._look()

    def _look(self) -> None:
        self.seen.update(dict.fromkeys(visible(self._level, self._here, self._heading, self._clear)))

    def _arrive(self) -> None:
        """Look about, face what the place is for, and think."""
        for _ in range(4):
            self._turn((self._heading - 1) % 4)
        beside = [self._here + step for step in self._level.steps if self._here + step in self._level.things]
        if beside:
            self._turn(self._level.steps.index(min(beside, key=lambda thing: self._stands.get(thing) != self._here) - self._here))
        self._stands.update(dict.fromkeys(beside, self._here))
        self._floor = {cell for cell in self.seen if cell in self._level.walkable}
        self._note_landmarks()
        self._note_ways()

    # What it makes of what it saw

    def _note_landmarks(self) -> None:
        known = self._level.distances([self._here], self._floor)
        for thing in self.seen:
            if thing in self._level.things and thing not in self._stands:
                self._choose_stand(thing, known)
        words: dict[int, tuple[str, ...]] = {}
        for cell in self.seen:
            stand = self._stands.get(cell, cell)
            if (cell in self._stands or cell in self._level.doors) and stand not in self._visited:
                words[stand] = tuple(dict.fromkeys((*words.get(stand, ()), *self._words_of(cell))))
        words |= dict.fromkeys(self._edges(known, words), UNSEEN)
        order = [*(cell for cell in self._frontier if cell in words), *words]
        self._frontier = {cell: words[cell] for cell in order}

    def _choose_stand(self, thing: int, known: dict[int, int]) -> None:
        """The nearest cell from which to face an object; one that serves nothing else and bars no door, if there is one."""
        level, taken = self._level, set(self._stands.values())

        def cost(cell: int) -> tuple[bool, int, bool, int]:
            beside = [cell + step for step in level.steps]
            return cell in taken or cell in level.doors, sum(c in level.things for c in beside), any(c in level.doors for c in beside), known[cell]

        cells = [thing + step for step in level.steps if thing + step in known]
        if cells:
            self._stands[thing] = min(cells, key=cost)

    def _edges(self, known: dict[int, int], landmarks: dict[int, tuple[str, ...]]) -> Iterator[int]:
        """A cell of each run of known floor that borders on unseen cells: the one chosen before, or the nearest. None for a run beside a
        landmark: who goes there looks about there, and what is then still unseen has an edge of its own."""
        steps = self._level.steps
        near = (*steps, steps[0] + steps[1], steps[0] + steps[3], steps[2] + steps[1], steps[2] + steps[3])
        left = {cell: None for cell in known if cell not in self._visited and any(cell + step not in self.seen for step in steps)}
        while left:
            run = [next(iter(left))]
            del left[run[0]]
            for cell in run:
                for beside in (cell + step for step in near if cell + step in left):
                    del left[beside]
                    run.append(beside)
            if not any(beside in landmarks for cell in run for beside in (cell, *(cell + step for step in steps))):
                yield next((cell for cell in run if self._frontier.get(cell) == UNSEEN), run[0])

    def _note_ways(self) -> None:
        """The places that can be reached without passing another one of the frontier, and how far they are."""
        steps, self._free = self._level.steps, self._level.distances([self._here], self._floor - self._frontier.keys())
        far = {cell: [self._free[cell + step] for step in steps if cell + step in self._free] for cell in self._frontier}
        self._offered = {cell: min(before) + 1 for cell, before in far.items() if before}

    def _way(self, target: int) -> list[int]:
        """The cells to pass, the target last."""
        way, far = [target], self._offered[target]
        while far > 1:
            far -= 1
            way.append(next(way[-1] + step for step in self._level.steps if self._free.get(way[-1] + step) == far))
        return way[::-1]

    # How it is told

    def _words_of(self, cell: int) -> tuple[str, ...]:
        """Of an object or a door."""
        if cell in self._level.things:
            return self._level.things[cell]
        return self._level.doors[cell], "door", "open" if cell in self._clear else "closed"

    def _at_hand(self, cell: int) -> tuple[str, ...]:
        """Of all that stands in or beside a visited cell."""
        objects = [cell + step for step in self._level.steps if cell + step in self._level.things]
        doors = [cell] if cell in self._level.doors else []
        return tuple(dict.fromkeys(word for found in (*doors, *objects) for word in self._words_of(found)))

    def _geometry(self, cells: Sequence[int], walks: "NDArray[np.float32]") -> "NDArray[np.float32]":
        import numpy as np

        width = self._level.width
        ahead_x, ahead_y = ((1, 0), (0, 1), (-1, 0), (0, -1))[self._heading]
        rows = np.zeros((len(cells), len(GEOMETRY)), dtype=np.float32)
        for row, cell in enumerate(cells):
            x, y = cell % width - self._here % width, cell // width - self._here // width
            far = hypot(x, y)
            sine, cosine = ((y * ahead_x - x * ahead_y) / far, (x * ahead_x + y * ahead_y) / far) if far else (0.0, 1.0)
            rows[row] = sine, cosine, 0.0, 1.0, far / self._unit, walks[row]
        return rows
