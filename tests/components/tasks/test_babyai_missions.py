"""BabyAI's missions: disjoint levels, told in minigrid's words, the same every time."""

from collections import Counter
from dataclasses import replace

import pytest

from ratchet.components.environments.babyai import Grids
from ratchet.components.tasks.babyai import BabyAI
from ratchet.errors import InputError

SPLITS = ("worked", "train", "dev", "test")
TWO = BabyAI(levels=("BabyAI-GoToLocalS5N2-v0", "BabyAI-GoToObjMazeS4R2-v0"), worked=7, train=9, dev=4, test=6)


def test_a_problem_is_an_episode_its_mission_and_the_shortest_way():
    for problem in TWO.propose():
        walk = Grids().open(problem.episode)
        judged = Grids().judge(problem.episode, problem.solution.split())
        assert (1.0, 1.0, problem.difficulty - 1) == (judged["success"], judged["spl"], judged["shortest"])
        assert (walk.path[0], problem.episode["level"]) == (problem.solution.split()[0], problem.group)
        assert problem.solution.split()[-1] in problem.reference.split()
        assert problem.prompt.startswith("go to ")


def test_the_splits_have_their_sizes_and_share_no_level():
    problems = [problem for split in SPLITS for problem in replace(TWO, split=split).propose()]
    levels = {(problem.episode["level"], problem.episode["seed"]) for problem in problems}
    assert 7 + 9 + 4 + 6 == len(problems) == len(levels) == len({problem.id for problem in problems})


def test_levels_take_turns_and_the_problems_of_one_stand_together():
    groups = [problem.group for problem in TWO.propose()]
    assert {TWO.levels[0]: 5, TWO.levels[1]: 4} == Counter(groups)
    assert sorted(groups, key=TWO.levels.index) == groups


def test_the_same_fields_give_the_same_problems_and_another_seed_gives_others():
    assert list(TWO.propose()) == list(TWO.propose())
    assert list(TWO.propose()) != list(replace(TWO, problem_seed=1).propose())


def test_a_larger_training_split_leaves_the_others_as_they_are():
    for split in ("worked", "dev", "test"):
        assert list(replace(TWO, split=split).propose()) == list(replace(TWO, split=split, train=12).propose())


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "prm"},
        {"split": "validation"},
        {"train": -1},
        {"levels": ()},
        {"levels": ("BabyAI-GoTo-v0", "BabyAI-GoTo-v0")},
        {"levels": ("BabyAI-Pickup-v0",)},
    ],
)
def test_a_value_that_makes_no_sense_is_refused(fields):
    with pytest.raises(InputError):
        BabyAI(**fields)
