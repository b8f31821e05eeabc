"""Outcome and process as one reward."""

from dataclasses import dataclass, replace

import pytest

from ratchet.components.policies.tiny import Tiny
from ratchet.components.self_training.value import ValueHead, load_value
from ratchet.components.verification.exact import Exact
from ratchet.components.verification.process import ProcessReward
from ratchet.errors import InputError
from ratchet.records import Demonstration, Rollout


@pytest.fixture(scope="module")
def prm(tmp_path_factory):
    """A value model that has learnt to like `yes` and to dislike `no`."""
    base, out, scratch = (tmp_path_factory.mktemp(name) for name in ("base", "prm", "scratch"))
    Tiny(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=48).create([], out=base, scratch=scratch, seed=0)
    texts = [Demonstration(prompt=f"{a}?", completion=f"{step}\n", label=float(step == "yes")) for a in range(9) for step in ("yes", "no")]
    ValueHead(steps=60, batch_size=16, learning_rate=3e-2, held_out=0.0).train(base, texts, out=out, scratch=scratch, seed=0)
    return out


def tried(*completions):
    return [Rollout(problem_id="p", sample=number, prompt="1?", completion=text, reference="1") for number, text in enumerate(completions)]


def verified(prm, rollouts, **fields):
    return list(ProcessReward(**{"outcome": Exact(), **fields}).verify(rollouts, roles={"prm": prm}))


def test_the_reward_is_the_outcome_and_the_weakest_step(prm):
    value, reader = load_value(prm)
    (found,) = verified(prm, tried("yes\nno\n#1"), weight=0.5)
    weakest = min(2 * p - 1 for p in value([reader.read("1?", "yes\nno\n#1")]).sigmoid().tolist())
    assert ("correct", "1") == (found.outcome, found.answer)
    assert {"outcome": 1.0, "process": pytest.approx(0.5 * weakest, abs=1e-5)} == found.scores
    assert found.reward == sum(found.scores.values())


def test_a_bad_step_costs_a_right_answer_its_reward(prm):
    sound, lucky = verified(prm, tried("yes\n#1", "no\n#1"))
    assert ("correct", "correct") == (sound.outcome, lucky.outcome)
    assert sound.reward > lucky.reward


def test_order_and_values_do_not_hang_on_the_batch(prm):
    rollouts = tried("yes\n#1", "no\n#2", "", "a long one\nwith three\nsteps", "yes\n#1")
    alone = [row for rollout in rollouts for row in verified(prm, [rollout])]
    for batch_size in (1, 2, 64):
        found = verified(prm, rollouts, batch_size=batch_size)
        assert [rollout.sample for rollout in rollouts] == [row.sample for row in found]
        assert [row.reward for row in alone] == pytest.approx([row.reward for row in found], abs=1e-5)


@pytest.mark.parametrize("outcome", ["wrong", "unparsed", "timeout", "crashed"])
def test_whatever_the_outcome_the_steps_count(prm, outcome):
    @dataclass(frozen=True, kw_only=True)
    class Judge:
        def verify(self, rollouts, *, roles):
            return (replace(rollout, outcome=outcome, reward=0.0) for rollout in rollouts)

    (found,) = verified(prm, tried("yes\nno"), outcome=Judge())
    assert (outcome, 0.0) == (found.outcome, found.scores["outcome"])
    assert -1 < found.scores["process"] < 1


@pytest.mark.parametrize("blank", ["", " ", "\n\n"])
def test_a_completion_without_a_step_has_the_lowest_process_reward(prm, blank):
    (found,) = verified(prm, tried(blank))
    assert ("unparsed", -1.0) == (found.outcome, found.reward)


def test_a_completion_longer_than_the_model_can_read_is_judged_by_what_it_reads(prm):
    (found,) = verified(prm, tried("yes\n" * 40))
    assert -1 < found.scores["process"] < 1


def test_no_rollouts_are_no_rows(prm):
    assert [] == verified(prm, [])


def test_it_asks_for_the_role_it_reads(prm):
    assert ("prm",) == ProcessReward.roles
    with pytest.raises(InputError, match="role named prm"):
        list(ProcessReward(outcome=Exact()).verify(tried("#1"), roles={}))


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("rows_per_shard", 0), ("weight", -1.0)])
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        ProcessReward(outcome=Exact(), **{field: value})
