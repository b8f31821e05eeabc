"""Rollouts judged by the text after a marker: right if it equals the reference.

The answer is what follows the last marker, up to the end of that line, without surrounding space. With `numeric` both are compared as
decimal numbers (`34` = `34.0` = `+034`, `1,000` = `1000`), and what is not one is no answer.

    correct    the answer equals the reference         reward 1
    wrong      it does not                             reward 0
    unparsed   no marker, nothing after it, no number  reward 0

A completion that was cut at the token limit is judged as it stands: without a marker it is unparsed, and an answer that the cut tore
is taken for whole. Nothing else is looked at: a right answer reached by wrong steps is correct.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from ratchet.components.verification.answers import after_marker, reference_of
from ratchet.errors import InputError
from ratchet.records import Outcome, Rollout

NUMBER = re.compile(r"[+-]?(\d[\d,]*(\.\d*)?|\.\d+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Judge answers letter by letter, or number by number."""

    marker: str | None = "#"
    """None: the whole completion is the answer."""
    numeric: bool = False
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if self.marker is not None and not self.marker.strip():
            raise InputError("the marker is blank", got=repr(self.marker), allowed="visible text such as #, or null for the whole completion")
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise InputError("rows_per_shard is too small", got=self.rows_per_shard, allowed="1, 2, … or null")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in rollouts:
            answer = after_marker(rollout.completion, self.marker)
            outcome = self._judge(answer, self._reference(rollout))
            reward = float(outcome == "correct")
            yield replace(rollout, answer=answer, outcome=outcome, reward=reward, scores={"outcome": reward})

    def _reference(self, rollout: Rollout) -> str:
        reference = reference_of(rollout)
        if self.numeric and not NUMBER.fullmatch(reference):
            raise InputError(f"the reference of {rollout.problem_id} is not a number", got=repr(reference), next="set numeric=false")
        return reference

    def _judge(self, answer: str | None, reference: str) -> Outcome:
        if answer is None or (self.numeric and not NUMBER.fullmatch(answer)):
            return "unparsed"
        equal = _number(answer) == _number(reference) if self.numeric else answer == reference
        return "correct" if equal else "wrong"


def _number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))
