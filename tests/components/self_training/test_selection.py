"""What the threshold selector keeps, in which order, and how its cap grows."""

import random
from dataclasses import replace

import pytest

from ratchet.components.self_training.selection import Threshold, cap_for
from ratchet.errors import InputError
from ratchet.records import Demonstration, Rollout


def rollout(problem: str, sample: int, reward: float, text: str | None = None, outcome: str = "correct", finished: bool = True) -> Rollout:
    text = f"{problem}{sample}" if text is None else text
    return Rollout(problem_id=problem, sample=sample, prompt=f"prompt {problem}", completion=text, outcome=outcome, reward=reward, finished=finished)


def kept(selector: Threshold, rollouts: list[Rollout]) -> list[str]:
    return [demonstration.completion for demonstration in selector.select(rollouts)]


def test_a_demonstration_has_the_problem_s_own_prompt():
    expected = Demonstration(prompt="prompt a", completion="a0", problem_id="a")

    assert [expected] == list(Threshold().select([rollout("a", 0, 1.0)]))


@pytest.mark.parametrize(("threshold", "texts"), [(-0.1, ["a2", "a1", "a0"]), (0.0, ["a2", "a1"]), (0.3, ["a2"]), (1.0, [])])
def test_only_rewards_above_the_threshold_are_kept_best_first(threshold, texts):
    assert texts == kept(Threshold(threshold=threshold), [rollout("a", 0, 0.0), rollout("a", 1, 0.3), rollout("a", 2, 1.0)])


def test_the_same_text_is_kept_once_a_problem_with_its_best_reward():
    rollouts = [rollout("a", 0, 0.2, "same"), rollout("a", 1, 0.5, "other"), rollout("a", 2, 0.9, "same"), rollout("b", 0, 0.1, "same")]

    assert ["same", "other", "same"] == kept(Threshold(), rollouts)
    assert ["same", "same"] == kept(Threshold(max_per_problem=1), rollouts)


def test_duplicates_take_no_place_under_the_cap():
    rollouts = [rollout("a", 0, 0.9, "same"), rollout("a", 1, 0.9, "same"), rollout("a", 2, 0.5, "other")]

    assert ["same", "other"] == kept(Threshold(max_per_problem=2), rollouts)


def test_equal_rewards_stand_by_sample_and_problems_as_they_first_appear():
    rollouts = [rollout("b", 1, 1.0), rollout("a", 0, 1.0), rollout("b", 0, 1.0), rollout("a", 1, 2.0)]

    assert ["b0", "b1", "a1", "a0"] == kept(Threshold(), rollouts)


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({}, ["right", "wrong"]),
        ({"complete_only": False}, ["right", "wrong", "cut", "unparsed", "timeout", "crashed"]),
        ({"correct_only": True}, ["right"]),
        ({"correct_only": True, "complete_only": False}, ["right", "cut"]),
    ],
)
def test_what_is_wrong_or_incomplete_is_left_out_where_asked(fields, texts):
    rollouts = [
        rollout("a", 0, 1.0, "right"),
        rollout("a", 1, 1.0, "wrong", "wrong"),
        rollout("a", 2, 1.0, "cut", finished=False),
        *[rollout("a", 3 + index, 1.0, outcome, outcome) for index, outcome in enumerate(("unparsed", "timeout", "crashed"))],
    ]

    assert texts == kept(Threshold(**fields), rollouts)


def test_a_text_left_out_does_not_hide_its_twin():
    rollouts = [rollout("a", 0, 2.0, "same", "timeout"), rollout("a", 1, 1.0, "same")]

    assert ["same"] == kept(Threshold(), rollouts)


@pytest.mark.parametrize(
    ("target", "limit", "cap"),
    # 5 + 2 + 1 candidates: caps of 1, 2, 3, 4, 5 keep 3, 5, 6, 7, 8.
    [(None, None, 5), (None, 2, 2), (1, None, 1), (3, None, 1), (4, None, 2), (5, None, 2), (7, None, 4), (8, None, 5), (99, None, 5), (7, 2, 2)],
)
def test_the_cap_grows_until_the_target_is_reached(target, limit, cap):
    assert cap == cap_for([5, 0, 2, 1], target=target, limit=limit)


def test_the_cap_of_nothing_is_nothing():
    assert [0, 0, 0] == [cap_for([], target=None, limit=None), cap_for([0, 0], target=3, limit=None), cap_for([], target=3, limit=2)]


def test_the_last_step_of_a_growing_cap_is_kept_whole():
    rollouts = [rollout("a", sample, 1.0) for sample in range(3)] + [rollout("b", sample, 1.0) for sample in range(3)]

    assert ["a0", "a1", "b0", "b1"] == kept(Threshold(target=3), rollouts)


def test_a_growing_cap_is_the_smallest_that_suffices():
    draw = random.Random(0)
    for _ in range(200):
        above = [draw.randint(0, 9) for _ in range(draw.randint(1, 8))]
        target, limit = draw.randint(1, 40), draw.choice([None, 1, 4, 20])
        most = min(max(above), limit or 99)
        expected = next((k for k in range(1, most) if sum(min(n, k) for n in above) >= target), most)
        assert expected == cap_for(above, target=target, limit=limit)


def test_rollouts_of_two_sources_are_ranked_together():
    """As STaR has it: attempts without a hint, then attempts with one, under the same sample numbers."""
    plain, hinted = [rollout("a", 0, 0.5, "plain")], [rollout("a", 0, 0.5, "hinted"), rollout("b", 0, 0.5, "b")]

    assert ["plain", "hinted", "b"] == kept(Threshold(), plain + hinted)


@pytest.mark.parametrize("missing", ["reward", "outcome"])
def test_rollouts_that_were_not_verified_are_an_error(missing):
    with pytest.raises(InputError, match="verify"):
        kept(Threshold(correct_only=True), [replace(rollout("a", 0, 1.0), **{missing: None})])


@pytest.mark.parametrize("wrong", [{"max_per_problem": 0}, {"target": 0}])
def test_counts_of_nothing_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Threshold(**wrong)
