"""What a step is, and how steps become problems and labels."""

import pytest

from ratchet.components.self_training.steps import StepLabels, StepPrefixes, steps_of
from ratchet.errors import InputError
from ratchet.records import Demonstration, Rollout


def tried(completion, *, problem="p/1", sample=0, outcome="wrong", prompt="1+2+3="):
    return Rollout(problem_id=problem, sample=sample, prompt=prompt, completion=completion, reference="6", outcome=outcome)


@pytest.mark.parametrize(
    ("completion", "separator", "expected"),
    [
        ("1+2=3\n#3", "\n", ["1+2=3\n", "#3\n"]),
        ("1+2=3\n#3\n", "\n", ["1+2=3\n", "#3\n"]),
        ("#3", "\n", ["#3\n"]),
        ("a\n\n\nb", "\n", ["a\n\n\n", "b\n"]),
        ("\n a\n", "\n", ["\n a\n"]),
        ("a; b", "; ", ["a; ", "b; "]),
        ("", "\n", []),
        (" \n\n", "\n", []),
    ],
)
def test_a_completion_is_cut_after_every_separator(completion, separator, expected):
    assert expected == steps_of(completion, separator)


@pytest.mark.parametrize("completion", ["a\nb\nc", "a\n\n b\n\nc\n", "\n\na\nb"])
def test_a_prefix_has_the_steps_of_the_whole(completion):
    steps = steps_of(completion, "\n")
    for number in range(1, len(steps) + 1):
        assert steps[:number] == steps_of("".join(steps[:number]), "\n")


def test_every_step_but_the_last_is_a_problem():
    (first, second) = StepPrefixes().select([tried("1+2=3\n3+3=6\n#6", sample=2)])
    assert ("1+2+3=1+2=3\n", "1+2+3=1+2=3\n3+3=6\n") == (first.prompt, second.prompt)
    assert ("p/1/2/1/6", "p/1/2/2/12") == (first.id, second.id)
    assert "6" == first.reference
    assert [] == list(StepPrefixes().select([tried("#6"), tried("")]))


def test_equal_prefixes_of_a_problem_are_one():
    rollouts = [tried("a\nb\nc"), tried("a\nx\nc", sample=1), tried("a\nb\nc", problem="p/2")]
    assert ["p/1/0/1/2", "p/1/0/2/4", "p/1/1/2/4", "p/2/0/1/2", "p/2/0/2/4"] == [problem.id for problem in StepPrefixes().select(rollouts)]


@pytest.mark.parametrize(("cap", "expected"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (9, [1, 2, 3, 4])])
def test_a_cap_spreads_over_what_there_is(cap, expected):
    chosen = StepPrefixes(max_per_problem=cap).select([tried("a\nb\nc\nd\ne")])
    assert expected == [int(problem.id.split("/")[-2]) for problem in chosen]


def completed(*outcomes, rests=("x", "y", "z", "w")):
    (prefix,) = StepPrefixes().select([tried("1+2=3\n#6")])
    return [
        tried(rest, problem=prefix.id, sample=number, prompt=prefix.prompt, outcome=outcome)
        for number, (rest, outcome) in enumerate(zip(rests, outcomes, strict=False))
    ]


@pytest.mark.parametrize(
    ("outcomes", "label", "expected"),
    [
        (("correct", "wrong", "unparsed", "correct"), "soft", 0.5),
        (("correct", "wrong", "unparsed", "wrong"), "hard", 1.0),
        (("wrong", "wrong"), "hard", 0.0),
        (("correct", "timeout", "crashed", "wrong"), "soft", 0.5),
    ],
)
def test_a_prefix_is_worth_what_its_judged_completions_reach(outcomes, label, expected):
    (found,) = StepLabels(label=label, whole_per_prefix=0).select(completed(*outcomes))
    assert Demonstration(prompt="1+2+3=", completion="1+2=3\n", problem_id="p/1", label=expected) == found


def test_a_prefix_that_was_never_judged_has_no_label():
    assert [] == list(StepLabels().select(completed("timeout", "crashed")))


def test_whole_completions_have_their_own_outcome_each_text_once():
    rollouts = completed("wrong", "wrong", "correct", "correct", rests=("#5", "#5", "", "#6"))
    _, *whole = StepLabels(whole_per_prefix=5).select(rollouts)
    assert [("1+2=3\n#5", 0.0), ("1+2=3\n#6", 1.0)] == [(found.completion, found.label) for found in whole]
    assert 2 == len(list(StepLabels(whole_per_prefix=1).select(rollouts)))


def test_rollouts_that_are_not_of_prefixes_are_refused():
    with pytest.raises(InputError, match="not of a step prefix"):
        list(StepLabels().select([tried("#6", outcome="correct")]))


@pytest.mark.parametrize(
    ("component", "fields", "named"),
    [
        (StepPrefixes, {"separator": ""}, "separator"),
        (StepPrefixes, {"max_per_problem": 0}, "max_per_problem"),
        (StepLabels, {"separator": ""}, "separator"),
        (StepLabels, {"label": "firm"}, "label"),
        (StepLabels, {"whole_per_prefix": -1}, "whole_per_prefix"),
    ],
)
def test_impossible_settings_are_refused(component, fields, named):
    with pytest.raises(InputError, match=named):
        component(**fields)
