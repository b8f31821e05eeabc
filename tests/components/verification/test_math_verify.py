"""Answers judged as mathematics, and a verifier that cannot be brought down or fooled into silence by them."""

import gzip
import json
from pathlib import Path

import pytest

from ratchet.components.verification import math
from ratchet.components.verification.math import CANARIES, MathVerify
from ratchet.errors import InputError, StageFailed
from ratchet.records import Rollout

PUBLISHED = Path(__file__).parents[3] / "../shared/data/gsm8k/train.jsonl.gz"

HANGS = "$9^{9^{9^9}}$"
"""A power that no alarm interrupts."""
SWELLS = "$(a+b+c+d+f+g+h+1)^{30}$"
"""A polynomial that is expanded to be compared."""


def rollout(completion, reference="34", finished=True, problem="p"):
    return Rollout(problem_id=problem, sample=0, prompt="?", completion=completion, reference=reference, finished=finished)


def judged(rollouts, **fields):
    return list(MathVerify(**{"workers": 1, "max_unhealthy_share": 1.0, **fields}).verify(rollouts, roles={}))


MARKED = {
    "numbers": [
        ("34", "34", "correct"),
        ("34", "35", "wrong"),
        ("34", "34.0", "correct"),
        ("34", "034", "correct"),
        ("-5", "-5", "correct"),
        ("-5", "5", "wrong"),
        ("5", "+5", "correct"),
        ("1000", "1,000", "correct"),
        ("1,000", "1000", "correct"),
        ("0.5", ".5", "correct"),
        ("0.333333", "1/3", "correct"),
        ("1.2", "1,2", "wrong"),
    ],
    "fractions and percentages": [
        ("0.5", r"\frac{1}{2}", "correct"),
        (r"\frac{1}{2}", "2/4", "correct"),
        (r"7\frac{1}{2}", "7.5", "correct"),
        ("7.5", r"7\frac{1}{2}", "correct"),
        ("7.5", "1/2", "wrong"),
        ("50", "50%", "correct"),
        ("0.5", "50%", "correct"),
        ("50", "0.5", "wrong"),
    ],
    "units, currency, decoration": [
        ("34", "$34", "correct"),
        ("34", r"\$34", "correct"),
        ("34", "34 apples", "correct"),
        ("34", "34 dollars.", "correct"),
        ("34", "34.", "correct"),
        ("34", "**34**", "correct"),
        ("34", r"34\text{ cm}", "correct"),
        ("34", r"\boxed{34}", "correct"),
        ("34", "$34$", "correct"),
        ("34", "30 + 4 = 34", "correct"),
        ("34", "34 = 30 + 5", "wrong"),
        ("3", "5 dollars and 3 cents", "wrong"),
    ],
    "formulas are read whole": [
        (r"2\sqrt{3}", r"2\sqrt{3}", "correct"),
        (r"2\sqrt{3}", r"\sqrt{12}", "correct"),
        (r"2\sqrt{3}", "2", "wrong"),
        ("2", r"2\sqrt{3}", "wrong"),
        ("x+1", "1+x", "correct"),
        ("x^2-1", "(x-1)(x+1)", "correct"),
        ("x+1", "y+1", "wrong"),
        (r"\text{east}", r"\text{east}", "correct"),
        (r"\text{east}", r"\text{west}", "wrong"),
        ("3+4i", "4i+3", "correct"),
    ],
    "sets, tuples, intervals": [
        (r"\{1,2\}", r"\{2,1\}", "correct"),
        ("1, 2", "2, 1", "correct"),
        ("(1, 2)", "(1, 2)", "correct"),
        ("(1, 2)", "(2, 1)", "wrong"),
        ("[1, 2)", "[1, 2)", "correct"),
        ("[1, 2)", "(1, 2)", "wrong"),
    ],
    "not symmetric: the gold comes first": [
        ("1", "2x+z=1", "correct"),
        ("2x+z=1", "1", "wrong"),
        ("1<x<2", "(1,2)", "correct"),
        ("(1,2)", "1<x<2", "wrong"),
        ("x=5", "5", "correct"),
        ("5", "x=5", "correct"),
    ],
    "it calculates": [
        ("42", "17+25", "correct"),
        ("42", "17+26", "wrong"),
    ],
    "nothing to read": [
        ("34", "", "unparsed"),
        ("34", "**", "unparsed"),
        ("34", "\x00", "unparsed"),
        ("34", "\ud800", "unparsed"),
        ("34", r"\frac{1}{", "unparsed"),
        ("34", "9" * 5000, "unparsed"),
        ("34", "(" * 100, "unparsed"),
    ],
}

WHOLE = [
    (r"First 3, then \boxed{34}, and not 35.", "correct"),
    ("The final answer is $34$. I hope it is correct.", "correct"),
    ("It was 33, then 34", "correct"),
    ("34, then 33", "wrong"),
    ("no idea", "unparsed"),
    ("", "unparsed"),
]


def test_marked_answers_by_phenomenon():
    cases = [(phenomenon, *case) for phenomenon, table in MARKED.items() for case in table]
    found = judged([rollout(f"So it is.\n#### {answer}\nmore", gold) for _, gold, answer, _ in cases], limit_s=60.0)
    told = [(*case[:3], one.outcome) for case, one in zip(cases, found, strict=True)]
    assert cases == told


def test_without_a_marker_math_verify_looks_for_the_answer():
    found = judged([rollout(completion) for completion, _ in WHOLE])
    assert [outcome for _, outcome in WHOLE] == [one.outcome for one in found]
    found = judged([rollout("#### 34 and then 35")], marker=None)
    assert ["35"] == [one.answer for one in found]


def test_the_answer_as_it_was_read_stands_in_the_rollout():
    found = judged([rollout(f"#### {answer}") for answer in ("1,034 apples", r"\frac{2}{4}", "**34**", "no")])
    assert ["1034", r"\frac{2}{4}", "34"] == [one.answer for one in found[:3]]


def test_a_cut_completion_has_an_answer_only_after_its_marker():
    found = judged([rollout("the answer is 34", finished=False), rollout("#### 34", finished=False)])
    assert ["unparsed", "correct"] == [one.outcome for one in found]


def test_a_right_answer_is_worth_one_and_any_other_nothing():
    found = judged([rollout("#### 34"), rollout("#### 35"), rollout("")])
    assert [(1.0, {"outcome": 1.0}), (0.0, {"outcome": 0.0}), (0.0, {"outcome": 0.0})] == [(one.reward, one.scores) for one in found]


def test_a_hang_times_out_and_the_rollouts_around_it_are_judged():
    found = judged([rollout("#### 34"), rollout(f"#### {HANGS}"), rollout("#### 35"), rollout("#### 34.0")], limit_s=1.0)
    assert ["correct", "timeout", "wrong", "correct"] == [one.outcome for one in found]
    assert 0.0 == found[1].reward


def test_a_swelling_comparison_crashes_and_the_rollouts_around_it_are_judged():
    golds = ("34", "x^3+1", "34")
    found = judged([rollout(f"#### {a}", g) for a, g in zip(("34", SWELLS, "35"), golds, strict=True)], limit_s=60.0, memory_mb=100)
    assert ["correct", "crashed", "wrong"] == [one.outcome for one in found]


def test_too_many_timeouts_fail_the_stage_with_the_counts():
    with pytest.raises(StageFailed, match=r"of 4 rollouts 1 timed out and 0 crashed so far; max_unhealthy_share=0\.2 allows 0\.8"):
        judged([*[rollout("#### 34")] * 3, rollout(f"#### {HANGS}")], limit_s=1.0, max_unhealthy_share=0.2)
    assert 4 == len(judged([*[rollout("#### 34")] * 3, rollout(f"#### {HANGS}")], limit_s=1.0, max_unhealthy_share=0.25))


def test_a_pair_is_judged_once_however_often_it_is_given():
    found = judged([rollout(f"#### {HANGS}", problem=f"p{n}") for n in range(50)], limit_s=1.0)  # 50 s if each were tried
    assert ({"timeout"}, 50) == ({one.outcome for one in found}, len(found))


def test_the_order_is_kept_and_a_second_time_gives_the_same():
    given = [rollout(f"#### {number % 7}", str(number % 5), problem=f"p{number}") for number in range(100)]
    found = judged(given, workers=2)
    assert [one.problem_id for one in given] == [one.problem_id for one in found]
    assert ["correct" if n % 7 == n % 5 else "wrong" for n in range(100)] == [one.outcome for one in found]
    assert found == judged(given)


@pytest.mark.parametrize("gold", ["x +", r"\frac{1}{", "?", "(" * 3000 + "1" + ")" * 3000])
def test_a_reference_that_cannot_be_read_is_the_users_to_mend(gold):
    with pytest.raises(InputError, match="the reference of the problem odd is not mathematics"):
        judged([rollout("#### 34"), rollout("#### 34", gold, problem="odd")], limit_s=1.0)


def test_a_problem_without_reference_cannot_be_judged():
    with pytest.raises(InputError, match="the problem p has no reference"):
        judged([rollout("#### 34", None)])


def test_a_failing_canary_fails_the_stage(monkeypatch):
    monkeypatch.setattr(math, "CANARIES", (*CANARIES, (("1", "2", True), "correct")))
    with pytest.raises(StageFailed, match="answer '2' to gold '1' must be correct, was wrong"):
        judged([rollout("#### 34")])


def test_the_canaries_hold_right_and_wrong_answers():
    assert {"correct", "wrong", "unparsed"} == {expected for _, expected in CANARIES}


def test_nothing_given_starts_nothing():
    assert [] == judged([], limit_s=0.001)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published GSM8K file does not lie beside the clone (../shared/data/gsm8k)")
def test_every_published_answer_verifies_by_its_number_and_not_every_one_by_its_whole_text():
    with gzip.open(PUBLISHED, "rt") as lines:
        answers = [json.loads(line)["answer"] for line in lines]
    given = [rollout(answer, answer.rpartition("####")[2].strip().replace(",", ""), problem=str(n)) for n, answer in enumerate(answers)]

    marked = [one.outcome for one in judged(given, workers=2)]
    whole = [one.outcome for one in judged(given[:2000], marker=None, workers=2)]

    assert (7473, {"correct"}) == (len(marked), set(marked))
    assert 0 < whole.count("wrong") < 20


@pytest.mark.parametrize(
    "fields", [{"marker": " "}, {"limit_s": 0}, {"memory_mb": 0}, {"workers": 0}, {"max_unhealthy_share": 1.1}, {"rows_per_shard": 0}]
)
def test_a_value_that_makes_no_sense_is_refused(fields):
    with pytest.raises(InputError):
        MathVerify(**fields)
