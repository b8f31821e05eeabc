"""Chains of arithmetic such as `17+25-8=`, made from a seed, with solutions worked step by step.

    17+25=42
    42-8=34
    #34

A worked line per operation, products first and then from the left, as school has it; then the answer after a marker. Every number on
the way is a whole number from 0 to `bound`; operands are from 1 to `largest`. `difficulty` is the number of operations, and within a
split the difficulties of `operations` take turns. A problem's id is its split and its text, so it is the same in every run.

The splits share no prompt. They may share a problem in another order of its operands (`17+25=` and `25+17=`). A split is filled with
chains drawn evenly from all that there are of a difficulty, not evenly over answers: small answers are less frequent than they look.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ratchet.components.tasks.splits import CARVED, Split, check_size, check_split
from ratchet.components.tasks.templates import HINT, check_template, with_hint
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.records import Problem

OPERATORS = ("+", "-", "*")
DRAWS_PER_PROBLEM = 1000


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Problems of one split; sizes are numbers of problems."""

    split: Split = "train"
    worked: int = 1000
    prm: int = 200
    train: int = 1000
    dev: int = 200
    test: int = 200
    operations: tuple[int, ...] = (1, 2, 3)
    """Operations in a chain, one difficulty each."""
    operators: tuple[str, ...] = ("+", "-")
    """Of `+`, `-` and `*`."""
    largest: int = 50
    """The largest operand."""
    bound: int = 99
    """The largest number on the way."""
    marker: str = "#"
    """Stands before the answer in a solution."""
    hinted: float = 0.0
    """Share of the worked problems that are shown with their answer, so that the policy learns to follow a hint."""
    hint: str = HINT
    """How they are shown."""
    problem_seed: int = 0
    """Other problems for another seed; it is not the run's seed, so runs compare on the same problems."""

    def __post_init__(self) -> None:
        check_split(self.split)
        check_template("hint", self.hint, ("reference", "prompt"))
        for split in CARVED:
            check_size(split, getattr(self, split))
        if not self.operations or min(self.operations) < 1 or len(set(self.operations)) < len(self.operations):
            raise InputError("operations are not different numbers of operations", got=self.operations, allowed="such as (1, 2, 3)")
        if not self.operators or not set(self.operators) <= set(OPERATORS) or len(set(self.operators)) < len(self.operators):
            raise InputError("operators are not different known ones", got=self.operators, allowed=", ".join(OPERATORS))
        if self.largest < 1 or self.bound < self.largest:
            raise InputError("the numbers do not fit", got=f"largest={self.largest}, bound={self.bound}", allowed="1 <= largest <= bound")
        if not 0 <= self.hinted <= 1:
            raise InputError("hinted is a share", got=self.hinted, allowed="0 to 1")
        if not self.marker.strip() or "\n" in self.marker:
            raise InputError("the marker is not a word", got=repr(self.marker), allowed="visible text on one line, such as #")

    def propose(self) -> Iterator[Problem]:
        chains = {count: self._chains(count) for count in self.operations}
        start = sum(getattr(self, split) for split in CARVED[: CARVED.index(self.split)])
        numbers = range(start, start + getattr(self, self.split))
        turns = len(self.operations)
        problems = [self._problem(*chains[self.operations[number % turns]][number // turns]) for number in numbers]
        yield from self._with_hints(problems) if self.split == "worked" else problems

    def _chains(self, count: int) -> list[tuple[list[int], list[str]]]:
        """As many chains of `count` operations as all splits together need, each once, in random order."""
        total, turn = sum(getattr(self, split) for split in CARVED), self.operations.index(count)
        wanted = len(range(turn, total, len(self.operations)))
        drawn = _shuffled(random.Random(derive_seed(self.problem_seed, count)), self.largest ** (count + 1) * len(self.operators) ** count)
        tried = (self._chain(index, count) for index in islice(drawn, DRAWS_PER_PROBLEM * (wanted + 1)))
        found = list(islice((chain for chain in tried if self._stays_in_bounds(*chain)), wanted))
        if len(found) < wanted:
            raise InputError(
                f"there are too few different problems with {count} operation{'s' * (count > 1)}",
                got=f"splits of {total} problems in all, {wanted} of them with {count}",
                allowed=f"{len(found)}: so many were found with operands to {self.largest} and results to {self.bound}",
                next="ask for fewer problems, or raise largest, bound or operations",
            )
        return found

    def _chain(self, index: int, count: int) -> tuple[list[int], list[str]]:
        """The chain with a number among all that could be written."""
        numbers, signs = [], []
        for _ in range(count + 1):
            index, digit = divmod(index, self.largest)
            numbers.append(digit + 1)
        for _ in range(count):
            index, digit = divmod(index, len(self.operators))
            signs.append(self.operators[digit])
        return numbers, signs

    def _stays_in_bounds(self, numbers: Sequence[int], signs: Sequence[str]) -> bool:
        return all(0 <= value <= self.bound for _, value in _steps(numbers, signs))

    def _problem(self, numbers: Sequence[int], signs: Sequence[str]) -> Problem:
        steps = list(_steps(numbers, signs))
        chain = str(numbers[0]) + "".join(f"{sign}{number}" for sign, number in zip(signs, numbers[1:], strict=True))
        lines = [f"{step}={value}" for step, value in steps]
        answer = str(steps[-1][1])
        return Problem(
            id=f"{self.split}/{chain}",
            prompt=f"{chain}=",
            reference=answer,
            solution="\n".join([*lines, f"{self.marker}{answer}"]),
            difficulty=len(signs),
        )

    def _with_hints(self, problems: Sequence[Problem]) -> Iterator[Problem]:
        rng = random.Random(derive_seed(self.problem_seed, "hinted"))
        chosen = set(rng.sample(range(len(problems)), round(self.hinted * len(problems))))
        for index, problem in enumerate(problems):
            yield with_hint(problem, self.hint) if index in chosen else problem


def _steps(numbers: Sequence[int], signs: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each operation in the order in which it is done, with its result."""
    left, todo = list(numbers), list(signs)
    while todo:
        at = todo.index("*") if "*" in todo else 0
        one, sign, other = left[at], todo.pop(at), left.pop(at + 1)
        left[at] = one * other if sign == "*" else one + other if sign == "+" else one - other
        yield f"{one}{sign}{other}", left[at]


def _shuffled(rng: random.Random, size: int) -> Iterator[int]:
    """0 … size - 1 in random order, each once; it remembers only what it has moved (Fisher and Yates, sparse)."""
    moved: dict[int, int] = {}
    for last in range(size - 1, -1, -1):
        at = rng.randrange(last + 1)
        yield moved.get(at, at)
        moved[at] = moved.pop(last, last)
