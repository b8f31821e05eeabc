"""Answers do not drift in length: the geometric mean of tokens, candidate over round 0, on the same held-out items."""

import math
from dataclasses import dataclass

from ratchet.components.gates.evidence import HELD_OUT, Evidence, Finding, Hypothesis
from ratchet.components.gates.hypotheses import mean_above
from ratchet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Length:
    max_ratio: float = 1.5
    """How many times as long answers may be as round 0's, or as short."""

    def __post_init__(self) -> None:
        if self.max_ratio <= 1:
            raise InputError("max_ratio is a factor", got=self.max_ratio, allowed="above 1, such as 1.5")

    def check(self, evidence: Evidence) -> Finding:
        after, before = evidence.candidate.get(HELD_OUT), evidence.start.get(HELD_OUT)
        if not after or not before or not after.tokens or list(after.ids) != list(before.ids):
            return Finding(words="", unknown=["no lengths of answers to the same held-out problems by candidate and round 0"])
        drift = [math.log(max(a, 1) / max(b, 1)) for b, a in zip(before.tokens, after.tokens, strict=True)]
        ratio, bound = math.exp(math.fsum(drift) / len(drift)), math.log(self.max_ratio)
        said = f"answers are {ratio:.2f} times as long as round 0's; {1 / self.max_ratio:.2f} to {self.max_ratio:g} may be"
        tests = [Hypothesis(p=mean_above(drift, bound), broken=said), Hypothesis(p=mean_above([-value for value in drift], bound), broken=said)]
        return Finding(words=f"answers are {ratio:.2f} times as long as round 0's", numbers={"ratio": ratio}, tests=tests)
