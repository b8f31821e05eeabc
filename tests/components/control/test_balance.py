"""The balance score against the paper's definition: by hand, and against a plain implementation on random rollouts."""

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from ratchet.components.control.balance import Balance, balance_grid
from ratchet.components.self_training.selection import Threshold
from ratchet.errors import InputError
from ratchet.identity import construct, describe
from ratchet.records import Problem, Rollout


def rollout(problem: object, sample: int, reward: float, outcome: str = "correct", text: str | None = None) -> Rollout:
    text = f"text {sample}" if text is None else text
    return Rollout(problem_id=str(problem), sample=sample, prompt=f"prompt {problem}", completion=text, outcome=outcome, reward=reward)


def problems(count: int) -> list[Problem]:
    return [Problem(id=str(index), prompt=f"prompt {index}") for index in range(count)]


def random_cell(seed: int, count: int = 7, samples: int = 12) -> list[Rollout]:
    """Few texts and few rewards, so that duplicates and ties abound; some rollouts are cut or unparsed."""
    draw = random.Random(seed)
    cell = []
    for problem in range(count):
        for sample in range(samples):
            reward = draw.randint(-10, 20) / 10
            made = rollout(problem, sample, reward, draw.choice(["correct", "wrong", "wrong", "unparsed"]), draw.choice("abcdefgh"))
            cell.append(replace(made, finished=draw.random() < 0.9))
    return cell


def plain_balance(rollouts: list[Rollout], threshold: float, n_star: int, *, cap: int | None, target: int | None) -> Fraction:
    """The definition, word by word, in exact fractions."""
    above = {}
    for made in rollouts:
        kept = above.setdefault(made.problem_id, [])
        if made.reward > threshold and made.finished and made.outcome in ("correct", "wrong"):
            kept.append(made)
    for problem, kept in above.items():
        kept.sort(key=lambda made: (-made.reward, made.sample))
        above[problem] = [made for index, made in enumerate(kept) if made.completion not in {other.completion for other in kept[:index]}]
    k = cap if cap is not None else 1000
    if target is not None:
        k = next((size for size in range(1, k) if sum(len(kept[:size]) for kept in above.values()) >= target), k)
    scores = []
    for kept in above.values():
        n, good = len(kept[:k]), sum(made.outcome == "correct" for made in kept[:k])
        scores.append(min(Fraction(good, n_star), 1) * Fraction(good, n) if n else Fraction(0))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(
    ("wanted", "asked", "n_star"),
    [(67_500, 11_500, 6), (13_500, 2_627, 6), (8, 4, 2), (9, 4, 3), (1, 100, 1)],
)
def test_n_star_is_the_samples_wanted_per_problem_rounded_up(wanted, asked, n_star):
    decision = Balance(samples_wanted=wanted, knobs="fixed").adjust({"1": [rollout(0, 0, 1.0)]}, problems(asked))

    assert n_star == decision.metrics["n_star"]
    assert round(1 / n_star, 12) == decision.metrics["balance"]


@pytest.mark.parametrize(
    ("selected", "correct", "score"),
    [(0, 0, 0), (3, 3, 1 / 2), (6, 6, 1), (12, 12, 1), (10, 8, 0.8), (4, 2, 1 / 6), (5, 0, 0)],
)
def test_the_score_of_a_problem_is_exploration_times_exploitation(selected, correct, score):
    rewards, flags = np.full((1, 12), -1.0), np.zeros((1, 12), dtype=bool)
    rewards[0, :selected], flags[0, :correct] = 0.5, True

    (row,) = balance_grid(rewards, flags, (0.0,), n_star=6)

    assert pytest.approx(score, abs=1e-12) == row["balance"]
    assert (selected, correct) == (row["selected"], row["correct"])


def test_a_problem_of_which_nothing_is_selected_counts_zero_in_the_mean():
    cell = [rollout("solved", 0, 1.0), rollout("failed", 0, -1.0, "wrong")]

    decision = Balance(samples_wanted=2, knobs="fixed").adjust({"1": cell}, problems(2))

    assert (0.5, 1) == (decision.metrics["balance"], decision.metrics["empty"])


@pytest.mark.parametrize(("threshold", "floor"), [(0.0, 1 / 6), (0.99, 1 / 6), (1.0, 0.0)])
def test_counting_the_reference_gives_every_problem_a_floor_of_one_over_n_star(threshold, floor):
    failed = [rollout("failed", sample, -1.0, "wrong") for sample in range(4)]
    balance = Balance(samples_wanted=67_500, knobs="fixed", threshold=threshold, count_reference=True)

    assert pytest.approx(floor, abs=1e-12) == balance.adjust({"1": failed}, problems(11_500)).metrics["balance"]
    assert 0 == replace(balance, count_reference=False).adjust({"1": failed}, problems(11_500)).metrics["balance"]


def test_the_reference_dilutes_no_selection_but_stands_behind_rollouts_of_the_same_reward():
    cell = [rollout(0, 0, 1.0, "wrong"), rollout(0, 1, 0.5, "wrong")]
    balance = Balance(samples_wanted=1, knobs="fixed", count_reference=True)

    assert pytest.approx(1 / 3) == balance.adjust({"1": cell}, problems(1)).metrics["balance"]
    assert 0 == replace(balance, max_per_problem=1).adjust({"1": cell}, problems(1)).metrics["balance"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("cap", "grow"), [(None, False), (3, False), (None, True), (4, True)])
def test_the_whole_grid_equals_the_definition(seed, cap, grow):
    cells = {"0.5": random_cell(seed), "1": random_cell(1000 + seed)}
    balance = Balance(samples_wanted=33, temperatures=(0.5, 1.0), max_per_problem=cap, grow=grow)

    decision = balance.adjust(cells, problems(10))

    target = 24 if grow else None  # 33 · 7 / 10, rounded up
    key = {0.5: "0.5", 1.0: "1"}
    expected = [
        round(float(plain_balance(cells[key[row["temperature"]]], row["threshold"], 4, cap=cap, target=target)), 12) for row in decision.cells
    ]
    assert 42 == len(decision.cells)
    assert expected == [row["balance"] for row in decision.cells]
    assert max(expected) == decision.metrics["balance"]
    assert decision.metrics["selected"] / 84 == decision.metrics["selected_share"]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("cap", "target"), [(None, None), (3, None), (5, 24)])
def test_each_cell_counts_what_the_selector_would_keep(seed, cap, target):
    cell = random_cell(seed)
    balance = Balance(samples_wanted=24, knobs="threshold", max_per_problem=cap, grow=target is not None)

    for row in balance.adjust({"1": cell}, problems(7)).cells:
        selector = Threshold(threshold=row["threshold"], max_per_problem=cap, target=target)
        assert len(list(selector.select(cell))) == row["selected"]


def test_thresholds_are_exact_decimals():
    fine = Balance(samples_wanted=1, threshold_step=0.01).thresholds

    assert tuple(hundredths / 100 for hundredths in range(-100, 101)) == fine
    assert 21 == len(Balance(samples_wanted=1).thresholds)


def test_a_reward_equal_to_the_threshold_is_not_above_it():
    cell = [rollout(0, 0, 0.3)]
    rows = Balance(samples_wanted=1, knobs="threshold").adjust({"1": cell}, problems(1)).cells

    assert 0.2 == max(row["threshold"] for row in rows if row["selected"])


@pytest.mark.parametrize(
    ("knobs", "temperatures", "thresholds"),
    [("fixed", (0.9,), 1), ("temperature", (0.5, 1.1), 1), ("threshold", (0.9,), 21), ("both", (0.5, 1.1), 21)],
)
def test_only_the_knobs_that_are_searched_make_a_grid(knobs, temperatures, thresholds):
    balance = Balance(samples_wanted=1, knobs=knobs, temperature=0.9, threshold=0.05, temperatures=(0.5, 1.1))

    assert {"temperature": temperatures} == balance.grid
    assert thresholds == len(balance.thresholds)
    assert thresholds > 1 or (0.05,) == balance.thresholds


def test_the_decision_holds_the_best_cell_and_all_others():
    sharp = [rollout(0, 0, 0.4), rollout(0, 1, 0.4, text="text 0"), rollout(0, 2, -0.5, "wrong")]
    varied = [rollout(0, 0, 0.4), rollout(0, 1, 0.6), rollout(0, 2, 0.15, "wrong")]
    balance = Balance(samples_wanted=2, temperatures=(0.5, 1.0))

    decision = balance.adjust({"0.5": sharp, "1": varied}, problems(1))

    assert {"temperature": 1.0, "threshold": 0.2} == decision.knobs
    assert (1.0, 2, 2) == tuple(decision.metrics[name] for name in ("balance", "selected", "correct"))
    assert [(t, tau) for t in (0.5, 1.0) for tau in balance.thresholds] == [(row["temperature"], row["threshold"]) for row in decision.cells]


@pytest.mark.parametrize(
    ("temperature", "threshold", "chosen"),
    [(1.0, 0.0, (0.9, 0.0)), (1.1, -0.5, (1.1, -0.5)), (0.1, 0.25, (0.5, 0.3)), (2.0, 5.0, (1.1, 0.9)), (1.0, -5.0, (0.9, -1.0))],
)
def test_equal_balances_move_no_knob(temperature, threshold, chosen):
    """All cells below 1 are equal here. 0.9 and 1.1 are equally far from 1: the lower; 0.2 and 0.3 from 0.25: the higher."""
    cell = [rollout(0, 0, 1.0)]
    balance = Balance(samples_wanted=1, temperature=temperature, threshold=threshold, temperatures=(0.5, 1.1, 0.9))

    decision = balance.adjust({"0.5": cell, "0.9": cell, "1.1": cell}, problems(1))

    assert chosen == (decision.knobs["temperature"], decision.knobs["threshold"])


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ({"0.5": 3}, "no cell 1$"),
        ({"0.50": 3, "1": 3}, r"no cell 0\.5$"),
        ({"0.5": 3, "1": 3, "1.5": 3}, r"nobody asked for: 1\.5"),
        ({"0.5": 3, "1": 0}, "cells 0.5 and 1 do not hold the same problems"),
        ({"0.5": 0, "1": 0}, "hold no rollouts"),
        ({"0.5": 3, "1": 4}, r"cell 0\.5 has not all samples of problem 0"),
    ],
)
def test_a_grid_with_a_hole_is_an_error_that_names_it(cells, named):
    given = {key: [rollout(0, sample, 1.0) for sample in range(samples)] for key, samples in cells.items()}

    with pytest.raises(InputError, match=f"(?m){named}"):
        Balance(samples_wanted=1, temperatures=(0.50, 1.0)).adjust(given, problems(1))


def test_a_sample_that_stands_twice_is_an_error():
    with pytest.raises(InputError, match="problem 0 once"):
        Balance(samples_wanted=1, knobs="fixed").adjust({"1": [rollout(0, 0, 1.0), rollout(0, 0, 1.0)]}, problems(1))


def test_rollouts_that_were_not_verified_are_an_error():
    with pytest.raises(InputError, match="verify"):
        Balance(samples_wanted=1, knobs="fixed").adjust({"1": [Rollout(problem_id="0", sample=0, prompt="", completion="")]}, problems(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples_wanted": 0},
        {"knobs": "all"},
        {"temperatures": ()},
        {"temperatures": (0.5, 0.50)},
        {"temperatures": (0.0, 0.5)},
        {"temperature": 0.0},
        {"threshold_step": 0.0},
        {"threshold_step": 0.3},
        {"threshold_low": 2.0},
        {"max_per_problem": 0},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        Balance(**{"samples_wanted": 1, **wrong})


def test_it_survives_its_description():
    balance = Balance(samples_wanted=5, temperatures=(0.65, 0.7), max_per_problem=3)

    assert balance == construct(describe(balance))
