"""A right answer by false steps is wrong."""

from fractions import Fraction

import pytest

from ratchet.components.verification.equations import Equations, value_of
from ratchet.components.verification.exact import Exact
from ratchet.errors import InputError
from ratchet.records import Rollout

VERDICTS = [
    # what the completion shows, the verdict
    ("2+1=3\n3+2=5\n#5", "correct"),
    ("2+1=4\n4+2=8\n#5", "wrong"),
    ("2+1=3\n3+2=6\n#6", "wrong"),
    ("#5", "correct"),
    ("no equation, only words #5", "correct"),
    ("2+1=3\n3+2=5", "unparsed"),
    ("10/4=2.5 and 2.5*2=5\n#5", "correct"),
    ("1/0=7\n#5", "wrong"),
    ("(1+2=3\n#5", "correct"),
    ("007+3=10\n#5", "correct"),
]


@pytest.mark.parametrize(("completion", "verdict"), VERDICTS)
def test_every_equation_that_is_stated_must_hold(completion: str, verdict: str) -> None:
    rollout = Rollout(problem_id="p", sample=0, prompt="2+1+2=", completion=completion, reference="5")

    (judged,) = Equations(outcome=Exact(marker="#")).verify([rollout], roles={})

    assert verdict == judged.outcome
    assert float(verdict == "correct") == judged.reward


def test_rounding_is_allowed_where_it_is_asked_for() -> None:
    rollout = Rollout(problem_id="p", sample=0, prompt="", completion="1/3=0.33\n#5", reference="5")
    strict, lenient = (Equations(outcome=Exact(marker="#"), tolerance=t).verify([rollout], roles={}) for t in (0.0, 0.01))

    assert ["wrong", "correct"] == [next(strict).outcome, next(lenient).outcome]


@pytest.mark.parametrize(
    ("text", "value"), [("1+2*3", Fraction(7)), ("-(1-4)", Fraction(3)), ("0.1+0.2", Fraction(3, 10)), ("2**9", None), ("a", None)]
)
def test_arithmetic_is_exact_and_nothing_else_is_evaluated(text: str, value: Fraction | None) -> None:
    assert value == value_of(text)


def test_a_pattern_without_two_sides_is_refused() -> None:
    with pytest.raises(InputError, match="two groups"):
        Equations(outcome=Exact(marker="#"), pattern="x")
