"""Rows on disk: one spelling each, and a torn or foreign line is named by file and number."""

from pathlib import Path

import pytest

from ratchet.errors import InputError
from ratchet.records import KINDS, OUTCOMES, Demonstration, PreferencePair, Problem, Record, Rollout, kind_of, line_of, read, write

RECORDS: list[Record] = [
    Problem(id="p", prompt="1+1=", reference="2", solution="2", difficulty=1, shown="[2]1+1="),
    Rollout(problem_id="p", sample=0, prompt="1+1=", completion="é\n2", tokens=3, outcome="correct", reward=1.5, scores={"prm": 0.5}),
    Demonstration(prompt="a", completion="b", problem_id="p", label=0.25),
    PreferencePair(prompt="a", chosen="b", rejected="c"),
]


@pytest.mark.parametrize("record", RECORDS, ids=kind_of)
def test_a_record_comes_back_as_it_was(record: Record, tmp_path: Path) -> None:
    assert 2 == write(tmp_path / "rows", [record, record])
    assert [record, record] == list(read(tmp_path / "rows", KINDS[kind_of(record)]))


def test_equal_rows_are_equal_bytes_and_absent_values_are_left_out() -> None:
    one = Rollout(problem_id="p", sample=0, prompt="a", completion="b", scores={"b": 1.0, "a": 2.0})
    other = Rollout(completion="b", prompt="a", sample=0, problem_id="p", scores={"a": 2.0, "b": 1.0})
    assert line_of(one) == line_of(other)
    assert "reward" not in line_of(one)
    assert "\n" not in line_of(Demonstration(prompt="a\nb", completion="c\u2028d"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id":"p","prom', "rows:2 is not JSON"),
        ("[1]", "rows:2 is not a JSON object"),
        ('{"id":"p","prompt":"a","colour":1}', "rows:2 has keys that a Problem has not"),
        ('{"id":"p"}', "rows:2 lacks keys of a Problem"),
    ],
)
def test_a_bad_line_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('{"id":"o","prompt":"a"}\n' + line + "\n")
    with pytest.raises(InputError, match=says):
        list(read(path, Problem))


def test_there_are_five_outcomes() -> None:
    assert ("correct", "wrong", "unparsed", "timeout", "crashed") == OUTCOMES
