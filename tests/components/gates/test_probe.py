"""Probe sets: the file's format, the example, and how answers are judged."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ratchet.components.tasks.probes import Probes
from ratchet.components.verification.choices import Choices
from ratchet.errors import InputError
from ratchet.identity import describe, identity_of, source_sha256
from ratchet.records import Problem, Rollout

ROW = {"id": "1", "prompt": "A or B?", "kept": "A", "broken": ["B", "both"], "arm": "unsupervised"}


def file_of(folder: Path, *rows: Any) -> Path:
    path = folder / "probes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_ones_own_is_read_row_by_row(tmp_path: Path) -> None:
    path = file_of(tmp_path, ROW, {**ROW, "arm": None}, {**ROW, "id": 2})
    problems = list(Probes(file=path, template="Q: {prompt}\n").propose())
    assert ["unsupervised/1", "plain/1", "unsupervised/2"] == [problem.id for problem in problems]
    assert "Q: A or B?\n" == problems[0].prompt
    assert {"kept": ["A"], "broken": ["B", "both"]} == json.loads(problems[0].reference or "")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROW, "id": 2, "broken": "A"}, "cannot both keep and break"),
        ({**ROW, "id": 2, "kept": []}, "neither a text nor a list"),
        ({**ROW, "answer": "A"}, "keys that a probe has not"),
        ({"id": 2, "kept": "A", "broken": "B"}, "no key 'prompt'"),
        (ROW, "stands twice"),
    ],
)
def test_a_row_that_cannot_be_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        list(Probes(file=file_of(tmp_path, ROW, row)).propose())
    assert "probes.jsonl:2" in str(raised.value)


def test_a_frozen_file_is_refused_once_it_was_changed(tmp_path: Path) -> None:
    path = file_of(tmp_path, ROW)
    frozen = Probes(file=path, sha256=source_sha256(path))
    before = identity_of(describe(frozen))
    path.write_text(path.read_text().replace("A or B?", "B or A, then?"))
    with pytest.raises(InputError, match="not the one that was frozen"):
        Probes(file=path, sha256=frozen.sha256)
    assert before != identity_of(describe(frozen)), "what it holds is part of what it is"


def test_the_example_is_balanced_and_can_be_judged() -> None:
    problems = list(Probes().propose())
    assert {"supervised": 12, "unsupervised": 12} == Counter(problem.id.partition("/")[0] for problem in problems)
    assert {"A": 12, "B": 12} == Counter(json.loads(problem.reference or "")["kept"][0] for problem in problems)
    assert 24 == len({problem.prompt for problem in problems})
    assert {"correct"} == {judged(problem, f"# {json.loads(problem.reference or '')['kept'][0].lower()}.").outcome for problem in problems}


def judged(problem: Problem, completion: str) -> Rollout:
    rollout = Rollout(problem_id=problem.id, sample=0, prompt=problem.prompt, completion=completion, reference=problem.reference)
    (found,) = Choices().verify([rollout], roles={})
    return found


@pytest.mark.parametrize(
    ("completion", "outcome", "violation"),
    [("I think # A", "correct", 0), ("#b", "wrong", 1), ("# both.", "wrong", 1), ("A", "unparsed", 0), ("# C", "unparsed", 0), ("#", "unparsed", 0)],
)
def test_an_answer_keeps_the_rule_breaks_it_or_cannot_be_read(tmp_path: Path, completion: str, outcome: str, violation: int) -> None:
    (problem,) = Probes(file=file_of(tmp_path, ROW)).propose()
    found = judged(problem, completion)
    assert (outcome, violation) == (found.outcome, (found.scores or {})["violation"])


def test_problems_that_are_no_probes_are_refused() -> None:
    with pytest.raises(InputError, match="does not say which answers keep the rule"):
        judged(Problem(id="1", prompt="1+1=", reference="2"), "#2")
