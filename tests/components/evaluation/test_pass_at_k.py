"""Evaluation against hand-made rollouts, exact enumeration and published interval values."""

from dataclasses import replace
from itertools import combinations

import pytest

from ratchet.components.evaluation.intervals import Intervals
from ratchet.components.evaluation.pass_at_k import PassAtK, distinct_equations, pass_at
from ratchet.errors import InputError
from ratchet.records import Rollout

INTERVALS = Intervals(confidence=0.95, resamples=2000, seed=0)


def rollout(problem: str, sample: int, outcome: str | None = "correct", reward: float | None = 1.0, text: str | None = None, **more) -> Rollout:
    text = f"text {sample}" if text is None else text
    return Rollout(problem_id=problem, sample=sample, prompt="", completion=text, outcome=outcome, reward=reward, **more)


def evaluator(**fields) -> PassAtK:
    return PassAtK(**{"samples": 4, "temperature": 1.0, "ks": (2, 4), "s_values": (1, 2), "resamples": 200, **fields})


def metrics(sampled: dict[str, list[Rollout]], **fields) -> dict[str, float]:
    greedy = [rollout(problem, 0) for problem in sampled]
    return evaluator(**fields).evaluate(greedy, [made for rollouts in sampled.values() for made in rollouts]).metrics


def mixed(problem: str, *outcomes: str) -> list[Rollout]:
    return [rollout(problem, sample, outcome, 1.0 - sample / 10) for sample, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(("samples", "correct", "k"), [(n, c, k) for n in (1, 2, 5, 8) for c in range(n + 1) for k in range(1, n + 1)])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_correct_sample(samples, correct, k):
    subsets = list(combinations([index < correct for index in range(samples)], k))

    assert sum(map(any, subsets)) / len(subsets) == pass_at(k, samples=samples, correct=correct)


def test_pass_at_k_keeps_its_precision_where_the_plain_formula_overflows():
    assert 1 - (1 - 1 / 2000) == pytest.approx(pass_at(1, samples=2000, correct=1), rel=1e-9)
    assert 0.5 == pass_at(1000, samples=2000, correct=1)


def test_pass_at_1_is_greedy_with_wilson_s_interval():
    """60 of 100: the Wilson score interval is 0.5020 to 0.6906 at 95 %."""
    greedy = [rollout(str(index), 0, "correct" if index < 60 else "wrong") for index in range(100)]

    found = evaluator(samples=0).evaluate(greedy, []).metrics

    assert 0.6 == found["pass_at_1"]
    assert pytest.approx((0.5020, 0.6906), abs=1e-4) == (found["pass_at_1.low"], found["pass_at_1.high"])


@pytest.mark.parametrize(("held", "low", "high"), [([False] * 10, 0.0, 0.2775), ([True] * 10, 0.7225, 1.0)])
def test_a_share_of_none_or_all_still_has_an_interval(held, low, high):
    found = INTERVALS.share("x", held)

    assert pytest.approx((low, high), abs=1e-4) == (found["x.low"], found["x.high"])


def test_the_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = [index / 400 for index in range(400)]
    error = 1.96 * (1 / 12 / 400) ** 0.5

    found = INTERVALS.mean("x", values)

    assert pytest.approx((found["x"] - error, found["x"] + error), abs=0.003) == (found["x.low"], found["x.high"])
    assert found == INTERVALS.mean("x", values)
    assert found != replace(INTERVALS, seed=1).mean("x", values)


def test_one_problem_has_no_interval_and_none_no_metric():
    assert {"x": 3.0} == INTERVALS.mean("x", [3])
    assert {} == INTERVALS.mean("x", [])


def test_pass_at_k_is_averaged_over_problems():
    found = metrics({"a": mixed("a", "correct", "wrong", "wrong", "wrong"), "b": mixed("b", *["wrong"] * 4), "c": mixed("c", *["correct"] * 4)})

    assert pytest.approx((1 / 2 + 0 + 1) / 3) == found["pass_at_2"]
    assert pytest.approx(2 / 3) == found["pass_at_4"]
    assert pytest.approx(5 / 12) == found["sampled_accuracy"]
    assert 0 <= found["pass_at_2.low"] < found["pass_at_2"] < found["pass_at_2.high"] <= 1


def test_pass_at_k_s_counts_unique_correct_samples():
    twice = [rollout("a", sample, "correct" if sample < 3 else "wrong", text="same" if sample < 2 else None) for sample in range(4)]

    found = metrics({"a": twice, "b": mixed("b", "correct", "wrong", "wrong", "wrong")}, s_values=(1, 2, 3))

    assert [1.0, 0.5, 0.0] == [found[f"pass_at_4_s{s}"] for s in (1, 2, 3)]


def test_reward_at_k_s_asks_whether_the_best_by_reward_are_all_correct():
    rewarded_wrong = [rollout("a", 0, "wrong", 2.0), *[rollout("a", sample, "correct", 1.0) for sample in (1, 2, 3)]]
    second_wrong = mixed("b", "correct", "wrong", "correct", "correct")

    found = metrics({"a": rewarded_wrong, "b": second_wrong, "c": mixed("c", *["correct"] * 4)}, s_values=(1, 2, 4))

    assert pytest.approx([2 / 3, 1 / 3, 1 / 3]) == [found[f"reward_at_4_s{s}"] for s in (1, 2, 4)]


def test_of_equal_rewards_the_first_sample_is_the_best():
    wrong_first = [rollout("a", sample, "wrong" if sample == 0 else "correct", 1.0) for sample in range(4)]

    assert 0 == metrics({"a": wrong_first})["reward_at_4_s1"]
    assert 1 == metrics({"a": [replace(made, sample=3 - made.sample) for made in wrong_first]})["reward_at_4_s1"]


@pytest.mark.parametrize(
    ("texts", "ratio"),
    [
        (["1+2=3", "1+2=3"], 1 / 2),
        (["1+2=3", "2+1=3"], 1),
        (["48/2 = <<48/2=24>>24, 24 + 48 = 72"], 1),
        (["1 + 2 = 3; 1+2=3"], 1 / 2),
        (["(1+2)*3=-9.5 and x = 7"], 1),
        (["no equation"], None),
        ([], None),
    ],
)
def test_distinct_equations_is_different_ones_by_all(texts, ratio):
    rollouts = [rollout("a", index, text=text) for index, text in enumerate(texts)]

    assert ratio == distinct_equations(rollouts, evaluator().equation_pattern)


def test_diversity_counts_correct_rollouts_and_skips_problems_without_equations():
    same = [rollout("a", sample, text="1+1=2") for sample in range(4)]
    one_wrong = [rollout("b", sample, "wrong" if sample == 0 else "correct", text=f"{sample % 2}+1=2") for sample in range(4)]
    none = [rollout("c", sample) for sample in range(4)]

    found = metrics({"a": same, "b": one_wrong, "c": none})

    assert pytest.approx((1 / 4 + 2 / 3) / 2) == found["distinct_equations"]
    assert 2 == found["distinct_equations_problems"]


def test_answers_and_entropy_are_measured_per_problem():
    one = [rollout("a", sample, answer="7", entropy=1.0) for sample in range(4)]
    more = [rollout("b", sample, answer=None if sample == 3 else str(sample), entropy=None if sample else 0.5) for sample in range(4)]

    found = metrics({"a": one, "b": more})

    assert (2.0, 0.75) == (found["distinct_answers"], found["token_entropy"])
    assert "token_entropy" not in metrics({"a": mixed("a", *["wrong"] * 4)})


def test_rollouts_are_described_greedy_and_sampled_apart():
    greedy = [rollout("a", 0, "unparsed", -1.0, tokens=10), rollout("b", 0, "timeout", 0.0, tokens=20, finished=False)]
    sampled = [rollout(problem, sample, "crashed" if sample else "correct", 0.5, tokens=5) for problem in "ab" for sample in range(4)]

    found = evaluator().evaluate(greedy, sampled).metrics

    assert (0.5, 0.5, 0.0, 0.5) == tuple(found[name] for name in ("unparsed", "timeout", "crashed", "unfinished"))
    assert (15.0, -0.5) == (found["length"], found["reward"])
    assert (0.75, 5.0, 0.5) == tuple(found[f"sampled_{name}"] for name in ("crashed", "length", "reward"))
    assert all(
        {f"{name}.low", f"{name}.high"} <= found.keys()
        for name in found
        if "." not in name and not name.endswith("_problems") and "distinct" not in name and "entropy" not in name
    )


def test_each_problem_has_a_row_for_paired_comparison():
    sampled = mixed("a", "correct", "wrong", "correct", "wrong")

    report = evaluator().evaluate([rollout("a", 0, "wrong", 0.0)], [replace(made, completion="same") for made in sampled])

    expected = {"problem_id": "a", "correct": False, "outcome": "wrong", "reward": 0.0}
    assert ({**expected, "sampled": 4, "sampled_correct": 2, "sampled_unique_correct": 1},) == tuple(report.items)


def test_without_samples_only_the_greedy_rollouts_are_measured():
    report = evaluator(samples=0).evaluate([rollout("a", 0), rollout("b", 0, "wrong")], [])

    assert {"pass_at_1", "length", "reward", "unparsed", "timeout", "crashed", "unfinished"} == {name.split(".")[0] for name in report.metrics}


@pytest.mark.parametrize(
    ("greedy", "sampled", "named"),
    [
        ([], [], "nothing to evaluate"),
        (["a", "a"], ["a"] * 4, "one greedy rollout"),
        (["a", "b"], ["a"] * 4, "problem b"),
        (["a"], ["a"] * 3, "problem a"),
        (["a"], ["a"] * 5, "problem a"),
        (["a"], ["a"] * 4 + ["b"] * 4, "problem b"),
    ],
)
def test_rollouts_that_are_missing_or_too_many_are_an_error(greedy, sampled, named):
    made = [rollout(problem, sampled[:index].count(problem)) for index, problem in enumerate(sampled)]

    with pytest.raises(InputError, match=named):
        evaluator().evaluate([rollout(problem, 0) for problem in greedy], made)


def test_rollouts_that_were_not_verified_are_an_error():
    with pytest.raises(InputError, match="verify"):
        evaluator(samples=0).evaluate([rollout("a", 0, None, None)], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": -1},
        {"temperature": 0.0},
        {"ks": (1,)},
        {"ks": (5,)},
        {"s_values": (0,)},
        {"s_values": (5,)},
        {"confidence": 1.0},
        {"resamples": 0},
        {"equation_pattern": "("},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        evaluator(**wrong)
