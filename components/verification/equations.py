"""A right answer counts only if the work shown for it is true: every equation that a completion states must hold.

A policy that is still poor guesses: `2+1=4`, `4+2=8`, `#5` has the right answer to 2+1+2 by luck. Where such completions are kept,
a loop trains on false steps. This checks what can be checked without a model: sums of whole numbers and decimals with + - * / and
brackets, compared exactly (`1/3=0.33` is false unless `tolerance` allows it). What is not an equation is not looked at, so a true
equation that has nothing to do with the problem passes; a process-reward model (`process.py`) is there for the rest.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from ratchet.errors import InputError
from ratchet.protocols import Verifier
from ratchet.records import Rollout

OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LONGEST = 200
"""Characters of an equation's left side; what is longer is not arithmetic that anybody shows."""


@dataclass(frozen=True, kw_only=True)
class Equations:
    """`outcome`'s verdict, turned from correct to wrong where a stated equation is false."""

    outcome: Verifier
    pattern: str = r"(\d[-+*/().\d \t]*)=[ \t]*(-?\d+(?:\.\d+)?)"
    """Finds an equation; its two groups are the sides."""
    tolerance: float = 0.0
    """How far apart the sides may be."""
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if re.compile(self.pattern).groups != 2:
            raise InputError("an equation's pattern captures its two sides", got=self.pattern, allowed="exactly two groups")
        if self.tolerance < 0:
            raise InputError("tolerance cannot be negative", got=self.tolerance, allowed="0 or more")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in self.outcome.verify(rollouts, roles=roles):
            if rollout.outcome == "correct" and not self._all_hold(rollout.completion):
                yield replace(rollout, outcome="wrong", reward=0.0, scores={"outcome": 0.0})
            else:
                yield rollout

    def _all_hold(self, text: str) -> bool:
        return all(self._holds(left, right) for left, right in re.findall(self.pattern, text))

    def _holds(self, left: str, right: str) -> bool:
        value = value_of(left)
        return value is not None and abs(value - Fraction(right)) <= self.tolerance


def value_of(expression: str) -> Fraction | None:
    """What an expression comes to, exactly; None if it is not arithmetic."""
    if len(expression) > LONGEST:
        return None
    # Zeros in front are a way to write a number, not Python's way.
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression.strip())
    try:
        return _evaluated(ast.parse(plain, mode="eval").body, plain)
    except (SyntaxError, ZeroDivisionError, ValueError, RecursionError, MemoryError):
        return None


def _evaluated(node: ast.expr, source: str) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(ast.get_source_segment(source, node) or "")
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_evaluated(node.left, source), _evaluated(node.right, source))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluated(node.operand, source)
        return -value if isinstance(node.op, ast.USub) else value
    raise ValueError(f"not arithmetic: {source}")
