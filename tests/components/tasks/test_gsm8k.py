"""GSM8K as published: references, solutions, disjoint splits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.components.tasks.gsm8k import GSM8K
from ratchet.components.tasks.splits import SPLITS
from ratchet.errors import InputError

PUBLISHED = Path(__file__).parents[3] / "../shared/data/gsm8k/train.jsonl.gz"

needs_published = pytest.mark.skipif(not PUBLISHED.exists(), reason="the published GSM8K file does not lie beside the clone (../shared/data/gsm8k)")


def file_of(folder: Path, *answers: str, name: str = "train.jsonl") -> Path:
    rows = [{"question": f"Question {number}?", "answer": answer} for number, answer in enumerate(answers)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_the_reference_is_the_marked_number_without_commas_and_calculator_marks_go(tmp_path):
    path = file_of(tmp_path, "Half is 2,400/2 = <<2400/2=1200>>1,200.\nSo it is.\n#### 1,200")
    task = GSM8K(train_file=path, worked=0, prm=0, dev=0, test=0, template="Q: {prompt}\nA:")

    (problem,) = task.propose()
    assert ("train/1", "Q: Question 0?\nA:", "1200", 2) == (problem.id, problem.prompt, problem.reference, problem.difficulty)
    assert "Half is 2,400/2 = 1,200.\nSo it is.\n#### 1,200" == problem.solution
    (marked,) = replace(task, calculator=True).propose()
    assert "<<2400/2=1200>>" in marked.solution


@needs_published
def test_the_published_file_is_carved_into_disjoint_splits():
    task = GSM8K(train_file=PUBLISHED, worked=300, prm=200, dev=100, test=50)
    splits = {split: [problem.prompt for problem in replace(task, split=split).propose()] for split in SPLITS}

    assert {"worked": 300, "prm": 200, "train": 6823, "dev": 100, "test": 50} == {split: len(prompts) for split, prompts in splits.items()}
    assert 7473 == len({prompt for prompts in splits.values() for prompt in prompts})


@needs_published
def test_every_published_answer_gives_a_whole_number():
    problems = list(GSM8K(train_file=PUBLISHED, worked=0, prm=0, dev=0, test=0).propose())
    assert 7473 == len([problem for problem in problems if str(int(problem.reference)) == problem.reference.lstrip("+")])


def test_a_test_file_leaves_the_training_file_whole(tmp_path):
    train = file_of(tmp_path, *["#### 1"] * 5)
    test = file_of(tmp_path, *["#### 2"] * 3, name="test.jsonl")
    task = GSM8K(train_file=train, test_file=test, worked=1, prm=1, dev=1)

    assert 2 == len(list(task.propose()))
    assert ["test/1", "test/2", "test/3"] == [problem.id for problem in replace(task, split="test").propose()]
    assert 2 == len(list(replace(task, split="test", test=2).propose()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q?", "answer": "42"}', r"train.jsonl:1: the answer does not end in `#### number`"),
        ('{"question": "Q?", "answer": "#### "}', r"train.jsonl:1: the answer does not end in `#### number`"),
        ('{"question": "Q?"}', r"train.jsonl:1 has no key 'answer'"),
        ('{"question": ["Q"], "answer": "#### 1"}', r"train.jsonl:1: 'question' is neither text nor a number"),
    ],
)
def test_a_row_of_another_form_is_named_by_file_and_line(tmp_path, line, message):
    (tmp_path / "train.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        list(GSM8K(train_file=tmp_path / "train.jsonl", test=0, worked=0, prm=0, dev=0).propose())


def test_more_than_there_is_cannot_be_carved(tmp_path):
    with pytest.raises(InputError, match="too small for its splits"):
        list(GSM8K(train_file=file_of(tmp_path, "#### 1", "#### 2"), worked=1, prm=1, dev=1, test=0).propose())


def test_test_problems_must_come_from_somewhere(tmp_path):
    with pytest.raises(InputError, match="neither a file nor a size"):
        GSM8K(train_file=file_of(tmp_path, "#### 1"))
