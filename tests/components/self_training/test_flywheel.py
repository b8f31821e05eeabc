"""What a navigator and a generator make of each other's rollouts."""

import pytest

from ratchet.components.self_training.flywheel import Instructions, Paths, WellFollowed, told_path
from ratchet.errors import InputError
from ratchet.records import Demonstration, Problem, Rollout

EPISODE = {"goal": 1}


def rollout(problem, prompt, completion, **fields):
    return Rollout(**{"problem_id": problem, "sample": 0, "prompt": prompt, "completion": completion, "episode": EPISODE, "group": "g", **fields})


def taught(problem, prompt, path, reward=1.0):
    return rollout(problem, prompt, path, source="teacher", reward=reward)


def told(problem, path, text, sample=0):
    return rollout(problem, path, text, sample=sample, source="generator")


def walk(problem, text, path, spl, ndtw):
    return rollout(problem, text, "x stop", reference=path, reward=spl, scores={"spl": spl, "ndtw": ndtw})


def test_paths_are_walks_that_arrived_without_what_they_were_told():
    found = list(Paths().select([taught("p", "go to a", "a stop"), taught("q", "go to b", "b stop", reward=0.0)]))
    assert [Problem(id="p", prompt="a stop", episode=EPISODE, group="g")] == found


def test_an_instruction_is_a_problem_once_and_says_whose_path_it_tells():
    found = list(
        Instructions().select([told("p/1", "a stop", "go"), told("p/1", "a stop", "go", 1), told("q", "a stop", "go"), told("q", "a stop", "on", 1)])
    )
    assert [("p/1/0", "go"), ("q/0", "go"), ("q/1", "on")] == [(problem.id, problem.prompt) for problem in found]
    assert {("a stop", "g")} == {(problem.reference, problem.group) for problem in found}
    assert ["p/1", "q", "q"] == [told_path(problem.id) for problem in found]


GIVEN = [
    walk("p/0", "good", "P", spl=1.0, ndtw=1.0),
    walk("p/1", "longer", "P", spl=0.8, ndtw=0.95),
    walk("q/0", "there by another way", "Q", spl=1.0, ndtw=0.5),
    walk("r/0", "bad", "R", spl=0.0, ndtw=0.2),
    *(told(path, path.upper(), "anew") for path in "pqr"),
    taught("s", "seed", "S"),
    taught("t", "lost", "T", reward=0.0),
]


def pairs(found):
    return [(example.prompt, example.completion) for example in found]


def test_the_generator_learns_what_it_said_of_paths_that_were_followed_as_short():
    found = list(WellFollowed(learner="generator", spl=1.0).select(GIVEN))
    assert [("S", "seed"), ("P", "good"), ("Q", "there by another way")] == pairs(found)
    assert Demonstration(prompt="P", completion="good", problem_id="p/0", episode=EPISODE) == found[1]


def test_the_navigator_learns_the_paths_told_and_new_instructions_where_none_was_followed():
    found = list(WellFollowed(learner="navigator", ndtw=0.9).select(GIVEN))
    assert [("seed", "S"), ("good", "P"), ("longer", "P"), ("anew", "Q"), ("anew", "R")] == pairs(found), "the path told, not the walk"


def test_before_anything_was_tried_all_that_is_told_is_learned_from():
    found = WellFollowed(learner="navigator", ndtw=0.9).select(
        [told("p", "P", "one"), told("p", "P", "one", 1), told("p", "P", "two", 2), taught("s", "seed", "S")]
    )
    assert [("seed", "S"), ("one", "P"), ("two", "P")] == pairs(found)


def test_a_walk_that_was_not_measured_by_its_path_is_refused():
    with pytest.raises(InputError, match="not measured by the path"):
        list(WellFollowed(learner="navigator").select([rollout("p/0", "go", "a stop", scores={"outcome": 1.0}, reward=1.0)]))


@pytest.mark.parametrize("wrong", [{"learner": "both"}, {"learner": "generator", "spl": 1.1}, {"learner": "generator", "ndtw": -0.1}])
def test_fields_are_checked(wrong):
    with pytest.raises(InputError):
        WellFollowed(**wrong)
