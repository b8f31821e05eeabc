"""STaR's rationalisation: failed problems come back with the answer shown."""

import pytest

from ratchet.components.self_training.hints import Hints
from ratchet.components.self_training.selection import Threshold
from ratchet.errors import InputError
from ratchet.records import Problem, Rollout


def rollout(problem: str, sample: int, outcome: str | None, reference: str | None = "7") -> Rollout:
    return Rollout(problem_id=problem, sample=sample, prompt=f"{problem}=", completion="", reference=reference, outcome=outcome, reward=1.0)


def test_a_problem_that_every_rollout_failed_comes_back_with_its_answer_shown():
    rollouts = [rollout("3+4", 0, "wrong"), rollout("3+4", 1, "timeout"), rollout("2+5", 0, "wrong"), rollout("2+5", 1, "correct")]

    assert [Problem(id="3+4", prompt="3+4=", reference="7", shown="[7]3+4=")] == list(Hints().select(rollouts))


def test_training_never_sees_the_hint():
    (problem,) = Hints().select([rollout("3+4", 0, "wrong")])
    tried = Rollout(problem_id=problem.id, sample=0, prompt=problem.prompt, completion="7", outcome="correct", reward=1.0)

    assert ["3+4="] == [demonstration.prompt for demonstration in Threshold().select([tried])]


@pytest.mark.parametrize(
    ("template", "shown"),
    [("{prompt} (hint: {reference}) ", "a{b}= (hint: 7) "), ("{{{reference}}} {prompt}", "{7} a{b}="), ("{reference}{reference}{prompt}", "77a{b}=")],
)
def test_the_template_says_how_the_answer_is_shown(template, shown):
    (problem,) = Hints(template=template).select([rollout("a{b}", 0, "unparsed")])

    assert shown == problem.shown


@pytest.mark.parametrize("template", ["{prompt}", "{reference}", "{prompt}{reference}{answer}", "{prompt}{}{reference}", "{prompt}{reference"])
def test_a_template_without_its_two_fields_is_refused(template):
    with pytest.raises(InputError):
        Hints(template=template)


def test_without_a_reference_there_is_no_hint():
    with pytest.raises(InputError, match="problem a has no reference"):
        list(Hints().select([rollout("a", 0, "wrong", reference=None)]))


def test_rollouts_that_were_not_verified_are_an_error():
    with pytest.raises(InputError, match="verify"):
        list(Hints().select([rollout("a", 0, None)]))
