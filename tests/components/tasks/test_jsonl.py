"""Problems from files of one's own; what is wrong with a file is named by file and line."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.components.tasks.jsonl import JsonLines
from ratchet.components.tasks.splits import SPLITS
from ratchet.errors import InputError

ROWS = [{"id": f"p{n}", "ask": f"{n}+1=", "gold": n + 1, "way": f"#{n + 1}"} for n in range(10)]
KEYS = {"prompt_field": "ask", "reference_field": "gold", "id_field": "id"}
SIZES = {"worked": 2, "prm": 1, "dev": 1, "test": 1}


def file_of(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_named_keys_are_read_and_numbers_become_text(tmp_path):
    task = JsonLines(train_file=file_of(tmp_path / "a.jsonl", ROWS[:1]), **KEYS, solution_field="way", worked=0, prm=0, dev=0, test=0)
    (problem,) = task.propose()
    assert ("p0", "0+1=", "1", "#1") == (problem.id, problem.prompt, problem.reference, problem.solution)


def test_one_file_is_carved_into_disjoint_splits_by_the_seed(tmp_path):
    task = JsonLines(train_file=file_of(tmp_path / "a.jsonl", ROWS), **KEYS, **SIZES)
    splits = {split: [problem.id for problem in replace(task, split=split).propose()] for split in SPLITS}

    assert {**SIZES, "train": 5} == {split: len(ids) for split, ids in splits.items()}
    assert {row["id"] for row in ROWS} == {id for ids in splits.values() for id in ids}
    assert splits["worked"] != [problem.id for problem in replace(task, split="worked", problem_seed=1).propose()]


def test_a_split_with_a_file_of_its_own_is_not_carved(tmp_path):
    train, dev = file_of(tmp_path / "a.jsonl", ROWS), file_of(tmp_path / "dev.jsonl", ROWS[:3])
    task = JsonLines(train_file=train, dev_file=dev, dev=None, worked=2, prm=1, test=1, prompt_field="ask", reference_field=None)

    assert 6 == len(list(task.propose()))
    assert ["dev/1", "dev/2", "dev/3"] == [problem.id for problem in replace(task, split="dev").propose()]
    assert {None} == {problem.reference for problem in task.propose()}


def test_a_zipped_file_reads_as_the_plain_one(tmp_path):
    plain = file_of(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    one = JsonLines(train_file=plain, **KEYS, **SIZES)
    assert list(one.propose()) == list(replace(one, train_file=tmp_path / "b.jsonl.gz").propose())


GOOD = b'{"prompt": "1+1=", "reference": "2"}\n'


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty"),
        (GOOD + b'{"prompt": "2+2=", "refe', r"jsonl(\.gz)?:2 is not JSON"),
        (GOOD + b"[1]\n", r"jsonl(\.gz)?:2 is not a JSON object"),
        (GOOD + b'{"prompt": "2+2="}\n', r"jsonl(\.gz)?:2 has no key 'reference'"),
        (GOOD + b'{"prompt": "2+2=", "reference": true}\n', r"jsonl(\.gz)?:2: 'reference' is neither text nor a number"),
        (GOOD + b'{"prompt": "\xff"}\n', r"is not UTF-8"),
    ],
)
def test_a_bad_file_is_named_by_file_and_line(tmp_path, content, message, zipped):
    path = tmp_path / ("bad.jsonl.gz" if zipped else "bad.jsonl")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(InputError, match=message):
        list(JsonLines(train_file=path, worked=0, prm=0, dev=0, test=0).propose())


def test_a_torn_zip_is_named(tmp_path):
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 100).encode())
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(InputError, match=r"torn.jsonl.gz:\d+ cannot be unzipped"):
        list(JsonLines(train_file=tmp_path / "torn.jsonl.gz", **KEYS).propose())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none.jsonl is not a file"):
        list(JsonLines(train_file=tmp_path / "none.jsonl").propose())


def test_an_id_twice_is_refused_with_both_lines(tmp_path):
    path = file_of(tmp_path / "a.jsonl", [*ROWS, ROWS[3]])
    with pytest.raises(InputError, match=r"a.jsonl:11 has the id of line 4"):
        list(JsonLines(train_file=path, **KEYS, **SIZES).propose())


def test_a_prompt_that_would_stand_in_two_splits_is_refused(tmp_path):
    path = file_of(tmp_path / "a.jsonl", [{"prompt": "1+1=", "reference": 2}] * 2)
    with pytest.raises(InputError, match="which would stand in both test and train"):
        list(JsonLines(train_file=path, worked=0, prm=0, dev=0, test=1).propose())


def test_a_worked_problem_needs_its_solution(tmp_path):
    path = file_of(tmp_path / "a.jsonl", [{**ROWS[0], "way": None}])
    task = JsonLines(train_file=path, **KEYS, solution_field="way", worked=1, prm=0, dev=0, test=0)
    assert [] == list(task.propose())
    with pytest.raises(InputError, match="the worked problem p0 has no 'way'"):
        list(replace(task, split="worked").propose())


@pytest.mark.parametrize("fields", [{"split": "eval"}, {"dev": None}, {"dev": -1}, {"template": "{question}"}])
def test_a_value_that_makes_no_sense_is_refused(tmp_path, fields):
    with pytest.raises(InputError):
        JsonLines(train_file=tmp_path, **fields)
