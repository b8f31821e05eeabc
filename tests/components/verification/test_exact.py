"""Answers judged letter by letter and number by number."""

import json

import pytest

from ratchet.components.verification.exact import Exact
from ratchet.errors import InputError
from ratchet.records import Rollout, line_of


def rollout(completion, reference="34", finished=True):
    return Rollout(problem_id="p", sample=0, prompt="17+25-8=", completion=completion, reference=reference, finished=finished)


def judged(verifier, completion, reference="34", finished=True):
    (found,) = verifier.verify([rollout(completion, reference, finished)], roles={})
    return found


LETTERS = [
    # the answer's place
    ("17+25=42\n42-8=34\n#34", "correct", "34"),
    ("#34\n", "correct", "34"),
    ("# 34 \nand more", "correct", "34"),
    ("#33\n#34", "correct", "34"),
    ("#34\n#33", "wrong", "33"),
    ("#34#", "unparsed", None),
    ("#\n34", "unparsed", None),
    ("34", "unparsed", None),
    # nothing but letters counts
    ("#34.0", "wrong", "34.0"),
    ("#034", "wrong", "034"),
    ("#3 4", "wrong", "3 4"),
    # what a policy may write
    ("", "unparsed", None),
    ("#", "unparsed", None),
    ("\x00", "unparsed", None),
    ("#\x00", "wrong", "\x00"),
    ("\u202e#\uff13\uff14", "wrong", "\uff13\uff14"),
]

NUMBERS = [
    ("#34.0", "34", "correct"),
    ("#+034", "34", "correct"),
    ("#1,000", "1000", "correct"),
    ("#.50", "0.5", "correct"),
    ("#34.", "34", "correct"),
    ("#-0", "0", "correct"),
    ("#-34", "34", "wrong"),
    ("#34.0000000000000000000000000000001", "34", "wrong"),
    ("#" + "9" * 100_000, "34", "wrong"),
    ("#34 apples", "34", "unparsed"),
    ("#1e1", "10", "unparsed"),
    ("#NaN", "34", "unparsed"),
    ("#sNaN", "34", "unparsed"),
    ("#Infinity", "34", "unparsed"),
    ("#\uff13\uff14", "34", "unparsed"),
    ("#3_4", "34", "unparsed"),
    ("#--34", "34", "unparsed"),
]


@pytest.mark.parametrize(("completion", "outcome", "answer"), LETTERS)
def test_letters(completion, outcome, answer):
    found = judged(Exact(), completion)
    assert (outcome, answer) == (found.outcome, found.answer)


@pytest.mark.parametrize(("completion", "reference", "outcome"), NUMBERS)
def test_numbers(completion, reference, outcome):
    assert outcome == judged(Exact(numeric=True), completion, reference).outcome


def test_a_right_answer_is_worth_one_and_any_other_nothing():
    found = [judged(Exact(), completion) for completion in ("#34", "#35", "34")]
    assert [1.0, 0.0, 0.0] == [one.reward for one in found]
    assert [{"outcome": 1.0}, {"outcome": 0.0}, {"outcome": 0.0}] == [one.scores for one in found]


def test_a_cut_completion_without_marker_is_unparsed():
    assert "unparsed" == judged(Exact(), "17+25=42\n42-8=34\n", finished=False).outcome


def test_a_longer_marker_and_none_at_all():
    assert "correct" == judged(Exact(marker="answer:"), "The answer: 34").outcome
    assert "correct" == judged(Exact(marker=None), " 34\n").outcome


def test_order_and_everything_else_about_a_rollout_stay():
    given = [Rollout(problem_id=f"p{n}", sample=n, prompt="?", completion=f"#{n}", reference="1", tokens=3, entropy=0.5) for n in range(3)]
    found = list(Exact().verify(given, roles={}))
    assert [json.loads(line_of(one)) for one in given] == [
        {key: value for key, value in json.loads(line_of(one)).items() if key not in ("answer", "outcome", "reward", "scores")} for one in found
    ]


@pytest.mark.parametrize("reference", [None, " "])
def test_a_problem_without_reference_cannot_be_judged(reference):
    with pytest.raises(InputError, match="the problem p has no reference"):
        judged(Exact(), "#34", reference)


def test_a_reference_that_is_no_number_cannot_be_judged_as_one():
    with pytest.raises(InputError, match="the reference of p is not a number"):
        judged(Exact(numeric=True), "#34", "thirty-four")


@pytest.mark.parametrize("fields", [{"marker": ""}, {"marker": " "}, {"rows_per_shard": 0}])
def test_a_value_that_makes_no_sense_is_refused(fields):
    with pytest.raises(InputError):
        Exact(**fields)
