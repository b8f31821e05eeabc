"""The verifier worked: the share of training rollouts on which it ran out of time or crashed. Rollouts of a problem count together."""

from dataclasses import dataclass

from ratchet.components.gates.evidence import Evidence, Finding, Hypothesis
from ratchet.components.gates.hypotheses import mean_above
from ratchet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class VerifierHealth:
    max_share: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.max_share < 1:
            raise InputError("max_share is a share", got=self.max_share, allowed="0 up to 1")

    def check(self, evidence: Evidence) -> Finding:
        if not evidence.draws:
            return Finding(words="", unknown=["the round selected from no rollouts of its own"])
        shares = [draw.unhealthy / draw.samples for draw in evidence.draws]
        share = sum(draw.unhealthy for draw in evidence.draws) / sum(draw.samples for draw in evidence.draws)
        said = f"the verifier timed out or crashed on {100 * share:.1f} % of the training rollouts; {100 * self.max_share:g} % may be"
        tests = [Hypothesis(p=mean_above(shares, self.max_share), broken=said)]
        return Finding(words=f"no verdict on {100 * share:.1f} % of the training rollouts", numbers={"share": share}, tests=tests)
