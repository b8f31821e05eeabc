"""Problems from any JSON Lines file, plain or gzipped, whose keys the user names.

Each split is a file of its own, or is carved from `train_file` by `problem_seed`; `train` is what the carved ones leave. A number where
text is expected is taken as it is written. Without `id_field`, ids are the split and the line. `difficulty` is left unset.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ratchet.components.tasks.files import rows_of, text_of
from ratchet.components.tasks.splits import CARVED, Split, carve, check_size, check_split
from ratchet.components.tasks.templates import PROMPT, check_template
from ratchet.errors import InputError
from ratchet.records import Problem


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """Problems of one split; a size is a number of problems, drawn by the seed, None: all that its file has (`train`: that are left)."""

    split: Split = "train"
    train_file: Path
    worked_file: Path | None = None
    prm_file: Path | None = None
    dev_file: Path | None = None
    test_file: Path | None = None
    worked: int | None = 100
    prm: int | None = 100
    train: int | None = None
    dev: int | None = 100
    test: int | None = 100
    prompt_field: str = "prompt"
    reference_field: str | None = "reference"
    """None: no answer is known."""
    solution_field: str | None = None
    """Worked solutions; the rows of other splits than `worked` may lack them."""
    id_field: str | None = None
    template: str = PROMPT
    """The prompt around what `prompt_field` holds, such as `Question: {prompt}\\nAnswer:`."""
    problem_seed: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        check_template("template", self.template, ("prompt",))
        for split in CARVED:
            check_size(split, getattr(self, split))
            if split != "train" and getattr(self, split) is None and self._own_file(split) is None:
                next = f"give {split}_file, or {split} as the number to carve from train_file"
                raise InputError(f"the {split} split has neither a file nor a size", next=next)

    def propose(self) -> Iterator[Problem]:
        own = self._own_file(self.split)
        path = own or self.train_file
        carved: dict[str, int | None] = {split: getattr(self, split) for split in CARVED if self._own_file(split) is None}
        sizes: dict[str, int | None] = {self.split: getattr(self, self.split)} if own else carved
        problems = [self._problem(row, number, path) for number, row in rows_of(path)]
        self._check_ids(problems, path)
        for problem in carve(problems, sizes, seed=self.problem_seed, source=path)[self.split]:
            if self.split == "worked" and self.solution_field and problem.solution is None:
                raise InputError(f"{path}: the worked problem {problem.id} has no {self.solution_field!r}", next="mend or remove the row")
            yield problem if self.id_field else replace(problem, id=f"{self.split}/{problem.id}")

    def _own_file(self, split: str) -> Path | None:
        return None if split == "train" else getattr(self, f"{split}_file")

    def _problem(self, row: Mapping[str, Any], number: int, path: Path) -> Problem:
        where = f"{path}:{number}"
        known = self.solution_field is not None and row.get(self.solution_field) is not None
        return Problem(
            id=text_of(row, self.id_field, where) if self.id_field else str(number),
            prompt=self.template.format(prompt=text_of(row, self.prompt_field, where)),
            reference=text_of(row, self.reference_field, where) if self.reference_field else None,
            solution=text_of(row, self.solution_field, where) if self.solution_field and known else None,
        )

    def _check_ids(self, problems: Sequence[Problem], path: Path) -> None:
        first: dict[str, int] = {}
        for number, problem in enumerate(problems, start=1):
            if (before := first.setdefault(problem.id, number)) != number:
                raise InputError(f"{path}:{number} has the id of line {before}", got=problem.id, next="give every row an id of its own")
