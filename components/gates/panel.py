"""Gates together: each says what it found, and one rule decides over all of it, so that a healthy run is rarely held up.

A gate's hypotheses hold in a healthy round. All of a round's are one family: Holm's correction, at the part of `family_wise` that this
look may spend (`hypotheses.spent`). So the chance that a run whose every round is healthy is ever held up, by chance and by any gate,
is at most `family_wise`, for any number of rounds and however the hypotheses depend. What is a fact and no question of chance
(a held-out item among the training rows) fails a round without spending anything.

    fail           a hypothesis is rejected, or a fact is against the round
    inconclusive   nothing is, but something that the gate is for could not be told
    pass           neither
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ratchet.components.gates.evidence import Evidence, Finding, evidence_of
from ratchet.components.gates.hypotheses import holm, spent
from ratchet.errors import InputError
from ratchet.protocols import Judgement, Verdict
from ratchet.records import Record


class Gate(Protocol):
    """One thing that may be wrong with a round."""

    def check(self, evidence: Evidence) -> Finding: ...


@dataclass(frozen=True, kw_only=True)
class Panel:
    gates: Mapping[str, Any]
    """name → gate; null: left out."""
    family_wise: float = 0.05
    inconclusive_blocks: bool = False
    """Whether what cannot be told holds a candidate up as a failure does."""
    look: int = 1
    """The round that is judged; the loop sets it."""

    def __post_init__(self) -> None:
        if not 0 < self.family_wise < 1:
            raise InputError("family_wise is a chance", got=self.family_wise, allowed="between 0 and 1, such as 0.05")
        if self.look < 1:
            raise InputError("the first look is 1", got=self.look)
        for name, gate in self.gates.items():
            if "." in name or name == "promoted":
                raise InputError("a gate's name has no dot, and is not `promoted`", got=name)
            if gate is not None and not hasattr(gate, "check"):
                raise InputError(f"the gate {name} cannot check anything", got=type(gate).__name__, allowed="a component with `check`, or null")

    def judge(self, given: Mapping[str, Sequence[Record]]) -> Judgement:
        return self.decide(evidence_of(given, self.look))

    def decide(self, evidence: Evidence) -> Judgement:
        """Every gate's verdict, and whether the candidate may be promoted."""
        findings = {name: gate.check(evidence) for name, gate in self.gates.items() if gate is not None}
        corrected = iter(holm([test.p for found in findings.values() for test in found.tests]))
        level = spent(self.family_wise, evidence.look)
        verdicts = [_verdict(name, found, [next(corrected) for _ in found.tests], level) for name, found in findings.items()]
        blocking = ("fail", "inconclusive") if self.inconclusive_blocks else ("fail",)
        return Judgement(promoted=not any(verdict.verdict in blocking for verdict in verdicts), verdicts=verdicts)


def _verdict(name: str, found: Finding, corrected: Sequence[float], level: float) -> Verdict:
    rejected = [(test, p) for test, p in zip(found.tests, corrected, strict=True) if p <= level]
    broken = [*found.facts, *(f"{test.broken} (p = {p:.2g} after correction, this look spends {level:.2g})" for test, p in rejected)]
    numbers = dict(found.numbers) | ({"p": min(corrected)} if corrected else {})
    if broken:
        return Verdict(name=name, verdict="fail", words="; ".join(broken), numbers=numbers, warnings=found.warnings)
    if found.unknown:
        return Verdict(name=name, verdict="inconclusive", words="; ".join(found.unknown), numbers=numbers, warnings=found.warnings)
    return Verdict(name=name, verdict="pass", words=found.words, numbers=numbers, warnings=found.warnings)
