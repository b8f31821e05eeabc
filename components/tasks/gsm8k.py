"""Grade-school word problems as published with GSM8K (Cobbe et al., 2110.14168): JSON Lines with `question` and `answer`.

An `answer` is a solution of a step a line, with calculator marks (`48/2 = <<48/2=24>>24`), and a last line `#### 24`. The reference is
what follows `####`, without thousands' commas; the solution keeps that last line as it is. `difficulty` is the number of steps.

The splits `worked`, `prm` and `dev` are carved from `train_file` by `problem_seed`, `train` is what they leave; `test` is the
`test_file`, or carved too where there is none. Every id is the split and the line in the file. What two published files have in
common is not looked for.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ratchet.components.tasks.files import rows_of, text_of
from ratchet.components.tasks.splits import CARVED, Split, carve, check_size, check_split
from ratchet.components.tasks.templates import PROMPT, check_template
from ratchet.errors import InputError
from ratchet.records import Problem

MARKER = "####"
CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True, kw_only=True)
class GSM8K:
    """Problems of one split; sizes are numbers of problems."""

    split: Split = "train"
    train_file: Path
    """`train.jsonl` or `train.jsonl.gz` as published."""
    test_file: Path | None = None
    """`test.jsonl`; None: test problems are carved from `train_file`."""
    worked: int = 1000
    prm: int = 500
    train: int | None = None
    """None: what the other splits leave."""
    dev: int = 200
    test: int | None = None
    """None: the whole `test_file`."""
    calculator: bool = False
    """Whether solutions keep their calculator marks."""
    template: str = PROMPT
    """The prompt around a question, such as `Question: {prompt}\\nAnswer:`."""
    problem_seed: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        check_template("template", self.template, ("prompt",))
        for split in CARVED:
            check_size(split, getattr(self, split))
        if self.test_file is None and self.test is None:
            raise InputError("the test split has neither a file nor a size", next="give test_file, or test as the number to carve from train_file")

    def propose(self) -> Iterator[Problem]:
        path, sizes = self._source()
        problems = [self._problem(row, number, path) for number, row in rows_of(path)]
        for problem in carve(problems, sizes, seed=self.problem_seed, source=path)[self.split]:
            yield replace(problem, id=f"{self.split}/{problem.id}")

    def _source(self) -> tuple[Path, dict[str, int | None]]:
        """The file of the split, and the splits that it is carved into."""
        if self.test_file is None:
            return self.train_file, {split: getattr(self, split) for split in CARVED}
        if self.split == "test":
            return self.test_file, {"test": self.test}
        return self.train_file, {split: getattr(self, split) for split in CARVED if split != "test"}

    def _problem(self, row: dict[str, object], number: int, path: Path) -> Problem:
        where = f"{path}:{number}"
        question, answer = text_of(row, "question", where), text_of(row, "answer", where)
        steps, found, reference = answer.rpartition(MARKER)
        reference = reference.strip().replace(",", "")
        if not found or not reference:
            raise InputError(f"{where}: the answer does not end in `{MARKER} number`", got=repr(answer[-60:]), next="mend or remove the row")
        return Problem(
            id=str(number),
            prompt=self.template.format(prompt=question),
            reference=reference,
            solution=answer if self.calculator else CALCULATOR.sub("", answer),
            difficulty=len(steps.strip().splitlines()),
        )
