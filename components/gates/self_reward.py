"""What the run rewards is still what is right: its reward may not rise while the labels fall, nor its verifier accept what is wrong.

Self-reward jumps exactly when accuracy collapses (SRT, 2505.21444), so the labels need a judge of their own (`gates.labelled`), on the
same greedy rollouts. Without one the run's own outcome stands for the label where its reward is something else (a process reward);
where the two are the same, nothing can be told.
"""

import math
from dataclasses import dataclass

from ratchet.components.gates.evidence import HELD_OUT, Evidence, Finding, Hypothesis, Measurement
from ratchet.components.gates.hypotheses import loss_above, mean_above, share_above
from ratchet.components.gates.regression import counts
from ratchet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SelfReward:
    max_false_accepts: float = 0.05
    """Share of items that the verifier may find correct and the labels wrong."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_false_accepts < 1:
            raise InputError("max_false_accepts is a share", got=self.max_false_accepts, allowed="0 up to 1")

    def check(self, evidence: Evidence) -> Finding:
        after, before = evidence.candidate.get(HELD_OUT), evidence.champion.get(HELD_OUT)
        if after is None or before is None or list(after.ids) != list(before.ids):
            return Finding(words="", unknown=["reward and labels need the same held-out problems for candidate and champion"])
        if after.labelled is None and [*after.reward, *before.reward] == [*after.correct, *before.correct]:
            return Finding(words="", unknown=["the reward is the label itself; a second judge is needed: gates.labelled=…"])
        rises = [a - b for b, a in zip(before.reward, after.reward, strict=True)]
        lost, gained = counts(before, after)
        reward, labels = math.fsum(rises) / len(rises), (gained - lost) / len(rises)
        numbers = {"reward": reward, "labels": labels}
        both = max(mean_above(rises, 0.0), loss_above(lost, gained, len(rises), 0.0))  # apart only if both are: the larger p holds for that
        tests = [Hypothesis(p=both, broken=f"the reward rose by {reward:.3f} while the labels fell by {100 * -labels:.1f} points")]
        if after.labelled is not None:
            false = _false_accepts(after)
            numbers |= {"false_accepts": false / len(rises)}
            allowed = f"{100 * self.max_false_accepts:g} % may be"
            said = f"the verifier accepts {100 * false / len(rises):.1f} % of the items against their labels; {allowed}"
            tests.append(Hypothesis(p=share_above(false, len(rises), self.max_false_accepts), broken=said))
        return Finding(words=f"reward {reward:+.3f}, labels {100 * labels:+.1f} points", numbers=numbers, tests=tests)


def _false_accepts(measured: Measurement) -> int:
    return sum(accepted > labelled for accepted, labelled in zip(measured.correct, measured.truth, strict=True))
