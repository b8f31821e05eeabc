"""Rollouts judged by mathematical equality with the reference, by math-verify 0.9 in worker processes that can be killed.

What is judged is what follows the last `marker` on its line; of a completion without one, all of it, in which math-verify looks for
`\\boxed{…}`, then for "the answer is …", then for the last formula or number. A completion that was cut at the token limit before
its marker has no answer. References and marked answers are read whole: `2\\sqrt{3}` as a formula, `34 apples` as 34. Equality is
math-verify's, gold first (it is not symmetric: `2x+z=1` answers `1`, `1` does not answer `2x+z=1`).

    correct    equal                                            unparsed   no expression could be read
    wrong      not equal, or math-verify cannot compare them    timeout    still at it after `limit_s`
                                                                crashed    over `memory_mb`, or its process died

The reward is 1 if correct, else 0. A rollout that goes wrong is data; but a verifier that goes wrong is not, so the stage fails if a
reference cannot be parsed, if a canary is not judged as it must be, or if more than `max_unhealthy_share` of the rollouts time out or
crash. Equal inputs give equal outputs, except that a timeout depends on the machine. Where the task is itself to simplify, math-verify
over-credits: it calculates, so `17+25` answers `42`.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratchet.components.verification.answers import after_marker, reference_of
from ratchet.components.verification.workers import Reply, Workers
from ratchet.errors import InputError, StageFailed
from ratchet.records import Outcome, Rollout

WORKER = "ratchet.components.verification.math_worker"

Question = tuple[str, str | None, bool]
"""Gold, answer (None: only whether the gold can be parsed), and whether the answer stands by itself."""

CANARIES: tuple[tuple[Question, Outcome], ...] = (
    (("42", "42", True), "correct"),
    (("42", "43", True), "wrong"),
    (("1000", "1,000", True), "correct"),
    ((r"\frac{1}{2}", "0.5", True), "correct"),
    ((r"2\sqrt{3}", "2", True), "wrong"),
    (("x+1", "1+x", True), "correct"),
    (("42", r"so it is \boxed{42}, not 43", False), "correct"),
    (("42", "no number at all", False), "unparsed"),
)


@dataclass(frozen=True, kw_only=True)
class MathVerify:
    """Judge answers as mathematics."""

    marker: str | None = "####"
    """None: math-verify looks for the answer in the whole completion."""
    limit_s: float = 5.0
    """Wall-clock seconds for one rollout."""
    memory_mb: int | None = 1024
    """Resident memory of a worker, of which 70 are its own; None: as much as there is."""
    workers: int | None = None
    """Processes; None: as many as there are CPUs. Does not change what comes out."""
    max_unhealthy_share: float = 0.05
    """Of the rollouts of a stage, or shard, that may time out or crash."""
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if self.marker is not None and not self.marker.strip():
            raise InputError("the marker is blank", got=repr(self.marker), allowed="visible text such as ####, or null for the whole completion")
        if self.limit_s <= 0:
            raise InputError("limit_s is no time", got=self.limit_s, allowed="more than 0 seconds")
        for name in ("memory_mb", "workers", "rows_per_shard"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is too small", got=getattr(self, name), allowed="1, 2, … or null")
        if not 0 <= self.max_unhealthy_share <= 1:
            raise InputError("max_unhealthy_share is a share", got=self.max_unhealthy_share, allowed="0 to 1")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        if not rollouts:
            return
        count = self.workers or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()) or 1
        with Workers(module=WORKER, count=count, limit_s=self.limit_s, memory_mb=self.memory_mb) as workers:
            _check_canaries(workers)
            _check_references(workers, rollouts)
            yield from self._judged(workers, rollouts)

    def _judged(self, workers: Workers, rollouts: Sequence[Rollout]) -> Iterator[Rollout]:
        questions = [self._question(rollout) for rollout in rollouts]
        asked = list(dict.fromkeys(question for question in questions if question is not None))
        replies = workers.replies(asked)
        known: dict[Question | None, tuple[Outcome, str | None]] = {None: ("unparsed", None)}
        counts = {"timeout": 0, "crashed": 0}
        for rollout, question in zip(rollouts, questions, strict=True):
            if question not in known:
                known[question] = _verdict(next(replies))  # asked in the order of first appearance
            outcome, answer = known[question]
            if outcome in counts:
                counts[outcome] += 1
                self._check_health(counts, len(rollouts))
            reward = float(outcome == "correct")
            yield replace(rollout, answer=answer, outcome=outcome, reward=reward, scores={"outcome": reward})

    def _question(self, rollout: Rollout) -> Question | None:
        marked = self.marker is not None and self.marker in rollout.completion
        if not marked and self.marker is not None and not rollout.finished:
            return None
        answer = after_marker(rollout.completion, self.marker if marked else None)
        return (reference_of(rollout), answer, marked) if answer is not None else None

    def _check_health(self, counts: Mapping[str, int], total: int) -> None:
        """Fail as soon as the share can no longer be kept, rather than wait for the limit some thousand times."""
        if sum(counts.values()) > self.max_unhealthy_share * total:
            told = f"of {total} rollouts {counts['timeout']} timed out and {counts['crashed']} crashed so far"
            reason = f"{told}; max_unhealthy_share={self.max_unhealthy_share:g} allows {self.max_unhealthy_share * total:g}"
            raise StageFailed("verify", state="unhealthy", reason=reason, next="raise limit_s or memory_mb, or look at what the policy writes")


def _verdict(reply: Reply) -> tuple[Outcome, str | None]:
    if reply.lost is not None:
        return reply.lost, None
    outcome, answer = reply.value
    return outcome, answer


def _check_canaries(workers: Workers) -> None:
    """Judge pairs of which the right verdict is known; they hold right and wrong ones, so equal verdicts for all cannot pass."""
    verdicts = [_verdict(reply)[0] for reply in workers.replies([question for question, _ in CANARIES])]
    for (question, expected), found in zip(CANARIES, verdicts, strict=True):
        if found != expected:
            reason = f"answer {question[1]!r} to gold {question[0]!r} must be {expected}, was {found}"
            raise StageFailed("verify", state="canary", reason=reason, next="check the installed math-verify and sympy (`ratchet doctor`)")


def _check_references(workers: Workers, rollouts: Sequence[Rollout]) -> None:
    """Refuse references that math-verify cannot read: every answer to them would look wrong."""
    problems = {reference_of(rollout): rollout.problem_id for rollout in reversed(rollouts)}
    replies = workers.replies([(gold, None, True) for gold in problems])
    for (gold, problem), reply in zip(problems.items(), replies, strict=True):
        outcome = _verdict(reply)[0]
        if outcome != "correct":
            raise InputError(
                f"the reference of the problem {problem} is not mathematics that math-verify can read ({outcome})",
                got=repr(gold[:200]),
                next="mend the reference, or use verification=exact",
            )
