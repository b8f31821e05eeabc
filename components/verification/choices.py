"""Answers to a probe set, judged by whether they keep its rule (`tasks/probes.py`).

    correct    the answer is one of those that keep the rule     reward 1
    wrong      it is one of those that break it                  reward 0, `violation` 1
    unparsed   it is neither, or there is none                   reward 0

The answer is what follows the last marker on its line; case, surrounding space and a closing full stop do not count.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratchet.components.verification.answers import after_marker, reference_of
from ratchet.errors import InputError
from ratchet.records import Outcome, Rollout


@dataclass(frozen=True, kw_only=True)
class Choices:
    marker: str | None = "#"
    """None: the whole completion is the answer."""
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if self.marker is not None and not self.marker.strip():
            raise InputError("the marker is blank", got=repr(self.marker), allowed="visible text such as #, or null for the whole completion")
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise InputError("rows_per_shard is too small", got=self.rows_per_shard, allowed="1, 2, … or null")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for rollout in rollouts:
            answer = after_marker(rollout.completion, self.marker)
            outcome = _judged(answer, _sides(rollout))
            scores = {"kept": float(outcome == "correct"), "violation": float(outcome == "wrong")}
            yield replace(rollout, answer=answer, outcome=outcome, reward=scores["kept"], scores=scores)


def _judged(answer: str | None, sides: Mapping[str, Sequence[str]]) -> Outcome:
    said = _plain(answer or "")
    if said in map(_plain, sides["kept"]):
        return "correct"
    return "wrong" if said in map(_plain, sides["broken"]) else "unparsed"


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").rstrip().casefold()


def _sides(rollout: Rollout) -> Mapping[str, Sequence[str]]:
    try:
        sides: dict[str, list[str]] = json.loads(reference_of(rollout))
        return {"kept": sides["kept"], "broken": sides["broken"]}
    except (ValueError, KeyError, TypeError):
        what = f"the reference of {rollout.problem_id} does not say which answers keep the rule and which break it"
        raise InputError(what, got=repr(rollout.reference)[:80], next="`choices` judges the problems of the task `probes`") from None
