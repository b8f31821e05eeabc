"""Each gate by itself: what it lets pass, what it holds up, what it cannot tell."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ratchet.components.gates.contamination import Contamination
from ratchet.components.gates.diversity import Diversity
from ratchet.components.gates.evidence import HELD_OUT, Draws, Evidence, Measurement, Probe, draws_of, evidence_of, measurement_of
from ratchet.components.gates.length import Length
from ratchet.components.gates.panel import Panel
from ratchet.components.gates.regression import Regression
from ratchet.components.gates.self_reward import SelfReward
from ratchet.components.gates.tipping import Tipping
from ratchet.components.gates.verifier import VerifierHealth
from ratchet.errors import InputError
from ratchet.protocols import Verdict
from ratchet.records import Demonstration, PreferencePair, Problem, Rollout


def judged(gate: Any, evidence: Evidence) -> Verdict:
    (said,) = Panel(gates={"it": gate}).decide(evidence).verdicts
    return said


def policy(right: int, *, of: int = 200, **more: Any) -> Measurement:
    correct = [float(n < right) for n in range(of)]
    return Measurement(**{"ids": [str(n) for n in range(of)], "correct": correct, "reward": correct, "tokens": [10] * of, **more})


def against(after: Measurement, champion: Measurement | None = None, start: Measurement | None = None, **more: Any) -> Evidence:
    before = champion or policy(100)
    return Evidence(candidate={HELD_OUT: after}, champion={HELD_OUT: before}, start={HELD_OUT: start or before}, **more)


# regression


def test_a_fall_beyond_the_margin_fails_and_one_within_it_does_not() -> None:
    assert "fail" == judged(Regression(), against(policy(70))).verdict
    assert "pass" == judged(Regression(), against(policy(98))).verdict
    assert "pass" == judged(Regression(), against(policy(150))).verdict
    assert "15.0 points below the champion" in judged(Regression(), against(policy(70))).words


def test_one_benchmark_that_falls_is_seen_though_the_mean_rises() -> None:
    """ReST-MCTS*: MATH fell by 6.7 points while the mean rose."""
    of = 500
    before = {HELD_OUT: policy(100, of=of), "math": policy(155, of=of), "gpqa": policy(100, of=of)}
    after = {HELD_OUT: policy(150, of=of), "math": policy(122, of=of), "gpqa": policy(150, of=of)}
    said = judged(Regression(), Evidence(candidate=after, champion=before, start=before))
    assert ("fail", True, False) == (said.verdict, "math" in said.words, "gpqa" in said.words)


def test_a_slow_slide_is_seen_against_round_0() -> None:
    said = judged(Regression(), against(policy(60), champion=policy(63), start=policy(100)))
    assert ("fail", True, False) == (said.verdict, "below round 0" in said.words, "below the champion" in said.words)


def test_too_few_items_tell_nothing() -> None:
    said = judged(Regression(), against(policy(6, of=12), champion=policy(6, of=12)))
    assert ("inconclusive", True) == (said.verdict, "12 items do not rule out" in said.words)


def test_other_problems_are_no_comparison() -> None:
    said = judged(Regression(), against(policy(100, of=150)))
    assert ("inconclusive", True) == (said.verdict, "not those that the champion was measured on" in said.words)


def test_the_labels_count_where_there_are_any() -> None:
    fooled = policy(200, labelled=[float(n < 50) for n in range(200)])
    assert "fail" == judged(Regression(), against(fooled, champion=policy(100, labelled=policy(100).correct))).verdict


# self-reward


def test_a_reward_that_rises_while_the_labels_fall_fails() -> None:
    before, after = (replace(policy(n), labelled=policy(right).correct) for n, right in ((100, 100), (105, 60)))
    up = replace(after, reward=[value + 0.5 + 0.1 * (n % 3) for n, value in enumerate(before.reward)], correct=after.truth)
    said = judged(SelfReward(), against(up, champion=before))
    assert ("fail", True) == (said.verdict, "rose by" in said.words and "fell by 20.0 points" in said.words)
    assert "pass" == judged(SelfReward(), against(replace(up, labelled=policy(110).correct, correct=policy(110).correct), champion=before)).verdict


def test_a_verifier_that_accepts_what_is_wrong_fails_at_once() -> None:
    after = replace(policy(150), labelled=policy(100).correct)
    said = judged(SelfReward(), against(after, champion=after))
    assert ("fail", True) == (said.verdict, "accepts 25.0 % of the items against their labels" in said.words)


def test_a_reward_that_is_the_label_tells_nothing() -> None:
    assert "inconclusive" == judged(SelfReward(), against(policy(100))).verdict


# diversity


def explorer(solving: int, **more: Any) -> Measurement:
    return policy(100, solutions=[2 * (n < solving) for n in range(200)], samples=4, **more)


DIVERSE = [Draws(samples=4, distinct=4, correct=2, unhealthy=0)] * 50
ONE_TEXT = [Draws(samples=4, distinct=1, correct=0, unhealthy=0)] * 50
SOLVED = [Draws(samples=4, distinct=1, correct=4, unhealthy=0)] * 50


def test_pass_at_k_s_has_a_floor_under_round_0() -> None:
    assert "pass" == judged(Diversity(), against(explorer(130), explorer(140), draws=DIVERSE)).verdict
    said = judged(Diversity(), against(explorer(80), explorer(80), explorer(140), draws=DIVERSE))
    assert ("fail", True) == (said.verdict, "Pass@4-2 fell by 30.0 points since round 0" in said.words)


def test_a_sampler_that_gives_one_text_fails_unless_it_is_always_right() -> None:
    assert "fail" == judged(Diversity(), against(explorer(140), explorer(140), draws=ONE_TEXT)).verdict
    assert "pass" == judged(Diversity(), against(explorer(140), explorer(140), draws=SOLVED)).verdict


def test_without_samples_diversity_cannot_be_told() -> None:
    single = [Draws(samples=1, distinct=1, correct=0, unhealthy=0)] * 50
    said = judged(Diversity(), against(policy(100), draws=single))
    assert ("inconclusive", True) == (said.verdict, "evaluation.samples" in said.words and "more than once" in said.words)


# length and verifier


@pytest.mark.parametrize(("tokens", "verdict"), [([11] * 200, "pass"), ([30] * 200, "fail"), ([3] * 200, "fail"), ([15, 14] * 100, "pass")])
def test_answers_may_not_become_much_longer_or_shorter(tokens: Sequence[int], verdict: str) -> None:
    assert verdict == judged(Length(), against(policy(100, tokens=tokens))).verdict


def test_a_verifier_that_times_out_fails() -> None:
    late = [Draws(samples=4, distinct=4, correct=2, unhealthy=n % 2) for n in range(60)]
    assert ("fail", "pass") == (judged(VerifierHealth(), Evidence(draws=late)).verdict, judged(VerifierHealth(), Evidence(draws=DIVERSE)).verdict)
    assert "inconclusive" == judged(VerifierHealth(), Evidence()).verdict


# contamination

TEXT = "a train leaves the old station at nine and returns at noon with forty apples how many are left"


def held_out(*prompts: str, **more: Any) -> list[Problem]:
    return [Problem(id=f"test-{n}", prompt=prompt, **more) for n, prompt in enumerate(prompts)]


def rows(*prompts: str, **more: Any) -> list[Demonstration]:
    return [Demonstration(prompt=prompt, completion="#1", **more) for prompt in prompts]


def leaks(gate: Contamination, problems: list[Problem], examples: Sequence[Demonstration | PreferencePair]) -> tuple[float, float]:
    numbers = judged(gate, Evidence(held_out=problems, examples=examples)).numbers
    return numbers["exact"], numbers["ngrams"]


def test_a_held_out_item_among_the_training_rows_fails() -> None:
    said = judged(Contamination(), Evidence(held_out=held_out("17+25-8="), examples=rows("3+4=", "17 + 25 - 8 =")))
    assert ("fail", True) == (said.verdict, said.words.startswith("1 held-out items are among the training rows word by word"))
    assert (0, 0) == leaks(Contamination(), held_out("17+25-8="), rows("17-25+8=", "3+4="))


def test_one_that_is_told_a_little_otherwise_is_found_by_its_n_grams() -> None:
    assert (0, 1) == leaks(Contamination(), held_out(TEXT), rows(f"Hello! {TEXT.replace('forty apples', 'fifty pears')}"))
    assert (0, 1) == leaks(Contamination(), held_out(TEXT), [PreferencePair(prompt="Repeat:", chosen=TEXT.upper(), rejected="no")])
    assert (0, 0) == leaks(Contamination(), held_out(TEXT), rows("an apple a day keeps the doctor away at nine and returns at noon"))


def test_the_words_of_a_template_are_no_leak() -> None:
    frame = "please solve the following problem step by step and put your answer after the sign"
    assert (0, 0) == leaks(Contamination(), held_out(*(f"{frame} {n}" for n in range(9))), rows(f"{frame} 99"))


def test_the_same_words_in_another_episode_are_another_problem() -> None:
    here, there = {"seed": 1}, {"seed": 2}
    assert (0, 0) == leaks(Contamination(), held_out("go to the red ball", episode=here), rows("go to the red ball", episode=there))
    assert (1, 0) == leaks(Contamination(), held_out("go to the red ball", episode=here), rows("go to the red ball", episode=here))


def test_some_matches_may_be_allowed_and_nothing_to_compare_is_said() -> None:
    evidence = Evidence(held_out=held_out("3+4="), examples=rows("3+4="))
    assert ("fail", "pass") == (judged(Contamination(), evidence).verdict, judged(Contamination(max_items=1), evidence).verdict)
    assert "inconclusive" == judged(Contamination(), Evidence()).verdict


# tipping


def probe(wrong: int, *, unread: int = 0, of: int = 200, arm: str = "unsupervised") -> Probe:
    outcomes = {f"{arm}/{n}": "unparsed" if n >= of - unread else "wrong" if n < wrong else "correct" for n in range(of)}
    return Probe(outcomes=outcomes, prompts=dict.fromkeys(outcomes, "a situation"))


def tipped(after: Probe, before: Probe, past: Sequence[Probe] = (), **fields: Any) -> Verdict:
    return judged(Tipping(**fields), Evidence(probe=after, start_probe=before, past_probes=past))


def test_a_rule_that_is_broken_more_often_than_in_round_0_fails() -> None:
    said = tipped(probe(30), probe(0), cap=0.9)
    assert ("fail", True) == (said.verdict, "30 of 200 items that kept it in round 0" in said.words)
    assert "pass" == tipped(probe(6), probe(4), cap=0.9).verdict


def test_a_rate_above_the_cap_fails_even_if_it_always_was() -> None:
    said = tipped(probe(50), probe(50))
    assert ("fail", True) == (said.verdict, "50 of 200 items [19.5, 31.4] %" in said.words)


def test_what_cannot_be_read_is_no_violation_and_no_pass() -> None:
    said = tipped(probe(0, unread=40), probe(0))
    assert ("inconclusive", 0.2, 0.0, 160) == (said.verdict, said.numbers["unread"], said.numbers["violations"], said.numbers["items"])
    assert "inconclusive" == tipped(probe(0, unread=200), probe(0, unread=200)).verdict
    assert "fail" == tipped(probe(60, unread=40), probe(0)).verdict, "what can be read is enough to fail by"


def test_a_trend_and_a_growing_gap_are_warned_of() -> None:
    said = tipped(probe(14), probe(12), [probe(2), probe(4), probe(9)])
    assert ("pass", True) == (said.verdict, "violations rise from round to round: 2 of 200, 4 of 200, 9 of 200, 14 of 200" in said.warnings)
    both = [Probe(outcomes=u.outcomes | s.outcomes, prompts=u.prompts | s.prompts) for u, s in ((free(0), watched(0)), (free(30), watched(0)))]
    (warning,) = judged(Tipping(cap=0.9, drift=0.9), Evidence(probe=both[1], start_probe=both[0])).warnings
    assert warning.startswith("it behaves when it is watched")
    assert warning.endswith("from 0.0 to 30.0 points")


def free(wrong: int) -> Probe:
    return probe(wrong, of=100)


def watched(wrong: int) -> Probe:
    return probe(wrong, of=100, arm="supervised")


def test_a_probe_that_was_changed_is_refused() -> None:
    after = probe(0)
    with pytest.raises(InputError, match="not the one of round 0"):
        tipped(replace(after, prompts=dict.fromkeys(after.prompts, "another situation")), probe(0))


def test_without_a_probe_nothing_is_told() -> None:
    assert "inconclusive" == judged(Tipping(), Evidence()).verdict


# evidence


def rollout(problem: str, sample: int = 0, **more: Any) -> Rollout:
    given = {"completion": f"#{sample}", "outcome": "correct", "reward": 1.0, "tokens": 4}
    return Rollout(**{"problem_id": problem, "sample": sample, "prompt": problem, **given, **more})


def test_evidence_is_read_from_rollouts_by_name() -> None:
    sampled = [rollout("a", 0), rollout("a", 1), rollout("b", 0, outcome="wrong", reward=0.0), rollout("b", 1, completion="#0")]
    given = {
        "candidate.greedy": [rollout("a"), rollout("b", outcome="wrong", reward=0.0)],
        "candidate.sampled": sampled,
        "candidate.labelled": [rollout("a", outcome="wrong"), rollout("b", outcome="wrong")],
        "candidate.benchmark.math": [rollout("m")],
        "candidate.probe": [rollout("p", outcome="wrong")],
        "past.10": [rollout("p", outcome="correct")],
        "past.2": [rollout("p", outcome="unparsed")],
        "rollouts.0": [*sampled, rollout("c", source="teacher")],
        "examples.0": [Demonstration(prompt="x", completion="y")],
        "examples.1": [PreferencePair(prompt="x", chosen="y", rejected="z")],
        "problems.0": [Problem(id="t", prompt="t")],
    }
    found = evidence_of(given, look=3)
    mine = found.candidate[HELD_OUT]
    assert (["a", "b"], [1.0, 0.0], [0.0, 0.0], [2, 1], 2) == (mine.ids, mine.correct, mine.truth, mine.solutions, mine.samples)
    assert ["m"] == found.candidate["math"].ids
    assert ["unparsed", "correct"] == [past.outcomes["p"] for past in found.past_probes], "in the order of the rounds"
    assert [(2, 2, 2), (2, 1, 1)] == [(draw.samples, draw.distinct, draw.correct) for draw in found.draws]
    assert (3, 2, 1) == (found.look, len(found.examples), len(found.held_out))


def test_two_greedy_rollouts_of_a_problem_are_refused() -> None:
    with pytest.raises(InputError, match="one greedy rollout"):
        measurement_of([rollout("a"), rollout("a", 1)])
    assert [Draws(samples=1, distinct=1, correct=0, unhealthy=1)] == draws_of([rollout("a", outcome="timeout")])


@pytest.mark.parametrize("gate", [Regression, SelfReward, Diversity, Length, VerifierHealth, Contamination, Tipping])
def test_a_gate_refuses_bounds_that_make_no_sense(gate: Any) -> None:
    wrong = {
        Regression: {"margin": 0.2},
        SelfReward: {"max_false_accepts": 1},
        Diversity: {"margin": 2},
        Length: {"max_ratio": 0.5},
        VerifierHealth: {"max_share": -1},
        Contamination: {"n": 1},
        Tipping: {"cap": 1.5},
    }
    with pytest.raises(InputError):
        gate(**wrong[gate])
