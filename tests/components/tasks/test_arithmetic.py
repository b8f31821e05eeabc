"""Arithmetic problems: right, bounded, disjoint, the same every time."""

import re
from dataclasses import replace

import pytest

from ratchet.components.tasks.arithmetic import Arithmetic
from ratchet.components.tasks.splits import SPLITS
from ratchet.errors import InputError

EVERY_OPERATOR = Arithmetic(operators=("+", "-", "*"), operations=(1, 2, 3, 4), train=400)


def test_a_solution_works_a_line_per_operation_and_ends_in_the_marked_answer():
    problems = {problem.prompt: problem for problem in Arithmetic(train=3000).propose()}
    problem = next(problems[prompt] for prompt in problems if re.fullmatch(r"\d+\+\d+-\d+=", prompt))

    one, other, third = (int(number) for number in re.findall(r"\d+", problem.prompt))
    both = one + other
    assert f"{one}+{other}={both}\n{both}-{third}={both - third}\n#{both - third}" == problem.solution
    assert (str(both - third), 2) == (problem.reference, problem.difficulty)


def test_every_answer_is_what_python_calculates():
    for problem in EVERY_OPERATOR.propose():
        assert str(eval(problem.prompt.rstrip("="))) == problem.reference
        for line in problem.solution.splitlines()[:-1]:
            left, _, right = line.partition("=")
            assert str(eval(left)) == right


def test_products_come_first():
    problem = next(p for p in EVERY_OPERATOR.propose() if re.fullmatch(r"\d+\+\d+\*\d+=", p.prompt))
    assert problem.solution.startswith(problem.prompt.partition("+")[2])


def test_every_number_on_the_way_is_within_bounds():
    task = Arithmetic(operators=("+", "-", "*"), operations=(3, 4), largest=20, bound=30)
    for problem in task.propose():
        numbers = [int(number) for number in re.findall(r"(?<!\d)-?\d+(?=\n|$)", problem.solution.replace("#", ""))]
        assert 0 <= min(numbers) <= max(numbers) <= 30
        assert max(int(number) for number in re.findall(r"\d+", problem.prompt)) <= 20


def test_the_splits_share_no_prompt_and_have_their_sizes():
    task = Arithmetic(worked=50, prm=20, train=70, dev=30, test=40)
    prompts = [problem.prompt for split in SPLITS for problem in replace(task, split=split).propose()]
    assert 50 + 20 + 70 + 30 + 40 == len(prompts) == len(set(prompts))


def test_the_same_fields_give_the_same_problems_and_another_seed_gives_others():
    assert list(Arithmetic().propose()) == list(Arithmetic().propose())
    assert list(Arithmetic().propose()) != list(Arithmetic(problem_seed=1).propose())


def test_a_larger_training_split_leaves_the_others_as_they_are():
    assert list(Arithmetic(split="test").propose()) == list(Arithmetic(split="test", train=2000).propose())


def test_difficulties_take_turns_in_every_split():
    counts = [problem.difficulty for problem in Arithmetic(split="dev", dev=99, operations=(2, 4, 5)).propose()]
    assert [33, 33, 33] == [counts.count(difficulty) for difficulty in (2, 4, 5)]


def test_ids_are_split_and_text_and_never_repeat():
    problems = list(Arithmetic(split="dev").propose())
    assert [f"dev/{problem.prompt.rstrip('=')}" for problem in problems] == [problem.id for problem in problems]


def test_a_share_of_the_worked_problems_is_shown_with_its_answer():
    problems = list(Arithmetic(split="worked", worked=100, hinted=0.3).propose())
    shown = [problem for problem in problems if problem.shown]
    assert 30 == len(shown)
    assert [f"[{problem.reference}]{problem.prompt}" for problem in shown] == [problem.shown for problem in shown]
    assert not any(problem.shown for problem in Arithmetic(split="train", hinted=1.0).propose())


def test_all_that_there_are_can_be_asked_for_and_not_one_more():
    every = {"operations": (1,), "operators": ("+",), "largest": 3, "bound": 5, "worked": 0, "prm": 0, "dev": 0, "test": 2}
    assert 6 == len(list(Arithmetic(train=6, **every).propose()))  # nine sums of 1 … 3, but for 3+3; two are test problems
    with pytest.raises(InputError, match="too few different problems with 1 operation"):
        list(Arithmetic(train=7, **every).propose())


@pytest.mark.parametrize(
    "fields",
    [
        {"split": "validation"},
        {"train": -1},
        {"operations": ()},
        {"operations": (0, 1)},
        {"operations": (1, 1)},
        {"operators": ("/",)},
        {"operators": ()},
        {"largest": 0},
        {"bound": 10},
        {"hinted": 1.5},
        {"hint": "[{answer}]{prompt}"},
        {"marker": "\n"},
    ],
)
def test_a_value_that_makes_no_sense_is_refused(fields):
    with pytest.raises(InputError):
        Arithmetic(**fields)
