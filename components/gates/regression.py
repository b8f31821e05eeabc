"""No benchmark falls: per benchmark, against the champion and against round 0, beyond a margin, on the same items.

A mean over benchmarks hides it (ReST-MCTS*, 2406.03816: MATH fell 31.06 → 24.40 while the mean rose), and so does the champion alone:
a run that loses a little in every round, each time within the margin, is caught by round 0. Items are greedy rollouts, 0 or 1, judged by
the labels where there are any. Inconclusive where there are so few items that not even a loss of `rule_out` can be ruled out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ratchet.components.gates.evidence import HELD_OUT, Evidence, Finding, Hypothesis, Measurement
from ratchet.components.gates.hypotheses import loss_above, loss_below
from ratchet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Regression:
    margin: float = 0.02
    """A loss up to this is no regression."""
    rule_out: float = 0.1
    """A loss that one has to be able to rule out (at 95 %) before the gate says pass."""

    def __post_init__(self) -> None:
        if not 0 <= self.margin < self.rule_out <= 1:
            raise InputError("margin and rule_out are shares", got=(self.margin, self.rule_out), allowed="0 ≤ margin < rule_out ≤ 1")

    def check(self, evidence: Evidence) -> Finding:
        numbers: dict[str, float] = {}
        tests: list[Hypothesis] = []
        unknown: list[str] = [] if evidence.candidate else ["nothing was measured on held-out problems"]
        for benchmark, reference, before, after in _pairs(evidence):
            if list(before.ids) != list(after.ids):
                unknown.append(f"{benchmark}: its problems are not those that {reference} was measured on")
                continue
            lost, gained = counts(before, after)
            change = (gained - lost) / max(len(after.ids), 1)
            numbers |= {f"{benchmark}.against_{reference.replace(' ', '_')}": change}
            said = f"{benchmark}: {100 * -change:.1f} points below {reference}, which is beyond the margin of {100 * self.margin:g}"
            tests.append(Hypothesis(p=loss_above(lost, gained, len(after.ids), self.margin), broken=said))
            if loss_below(lost, gained, len(after.ids), self.rule_out) > 0.05:
                unknown.append(f"{benchmark}: {len(after.ids)} items do not rule out a loss of {100 * self.rule_out:g} points against {reference}")
        words = ", ".join(f"{name.replace('.against_', ' against ').replace('_', ' ')} {100 * value:+.1f}" for name, value in numbers.items())
        return Finding(words=f"{words} points", numbers=numbers, tests=tests, unknown=unknown)


def _pairs(evidence: Evidence) -> Iterator[tuple[str, str, Measurement, Measurement]]:
    for benchmark in sorted(evidence.candidate, key=lambda name: (name != HELD_OUT, name)):
        for reference, others in (("the champion", evidence.champion), ("round 0", evidence.start)):
            if benchmark in others and not (reference == "round 0" and others[benchmark] == evidence.champion.get(benchmark)):
                yield benchmark, reference, others[benchmark], evidence.candidate[benchmark]


def counts(before: Measurement, after: Measurement) -> tuple[int, int]:
    """Items lost and gained."""
    pairs = list(zip(before.truth, after.truth, strict=True))
    return sum(a < b for b, a in pairs), sum(a > b for b, a in pairs)
