"""The splits of a task, and how one source is carved into them: disjoint, by a seed, each in the source's order.

worked   problems with solutions from which a policy is created       dev    what a controller or gate may look at
prm      problems on which a process-reward model is trained          test   what a policy is measured on
train    problems on which the policy improves itself
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.records import Problem

Split = Literal["worked", "prm", "train", "dev", "test"]
SPLITS: tuple[str, ...] = get_args(Split)
CARVED = ("test", "dev", "prm", "worked", "train")
"""The order in which splits are taken, so that a larger `train` leaves the others as they are."""


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError("there is no such split", got=split, allowed=", ".join(SPLITS))


def check_size(split: str, size: int | None) -> None:
    if size is not None and size < 0:
        raise InputError(f"the size of the {split} split is negative", got=size, allowed="0, 1, 2, …")


def carve(problems: Sequence[Problem], sizes: Mapping[str, int | None], *, seed: int, source: object) -> dict[str, list[Problem]]:
    """Each split's problems; a size of None takes what the splits before it in `CARVED` left. A prompt never stands in two splits."""
    wanted = sum(size or 0 for size in sizes.values())
    if wanted > len(problems):
        asked = ", ".join(f"{split} {size}" for split, size in sizes.items() if size)
        raise InputError(f"{source} is too small for its splits", got=asked, allowed=f"at most {len(problems)} in all", next="ask for less")
    left = random.Random(derive_seed(seed, "carve")).sample(range(len(problems)), len(problems))
    parts: dict[str, list[Problem]] = {}
    for split in (name for name in CARVED if name in sizes):
        size = sizes[split]
        taken, left = (left, []) if size is None else (left[:size], left[size:])
        parts[split] = [problems[index] for index in sorted(taken)]
    _check_disjoint(parts, source)
    return parts


def _check_disjoint(parts: Mapping[str, Sequence[Problem]], source: object) -> None:
    first: dict[str, tuple[str, str]] = {}
    for split, problems in parts.items():
        for problem in problems:
            other, id = first.setdefault(problem.prompt, (split, problem.id))
            if other != split:
                what = f"{source} has one prompt twice, which would stand in both {other} and {split}"
                raise InputError(what, got=f"{id} and {problem.id}: {problem.prompt[:80]!r}", next="remove one of them")
