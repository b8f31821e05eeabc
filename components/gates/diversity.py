"""The policy still explores: Pass@K-S holds up against round 0, and what it samples for training does not all come out the same.

Pass@K-S (B-STaR, 2412.17256): share of items with S or more correct samples of different text. A sampler that has collapsed (a
temperature near 0) gives every problem one text; on problems that it always solves that is no fault, so those that it does not are
looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ratchet.components.gates.evidence import HELD_OUT, Draws, Evidence, Finding, Hypothesis
from ratchet.components.gates.hypotheses import loss_above, share_above
from ratchet.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Diversity:
    s: int = 2
    """S of Pass@K-S."""
    margin: float = 0.1
    """How far Pass@K-S may be below round 0's."""
    max_identical: float = 0.5
    """Of the problems that are not always solved, the share whose samples may all be of one text."""
    enough: int = 10
    """Problems from which on that can be told."""

    def __post_init__(self) -> None:
        if self.s < 1 or self.enough < 1:
            raise InputError("s and enough count something", got=(self.s, self.enough), allowed="1 or more")
        if not (0 <= self.margin < 1 and 0 < self.max_identical < 1):
            raise InputError("margin and max_identical are shares", got=(self.margin, self.max_identical), allowed="between 0 and 1")

    def check(self, evidence: Evidence) -> Finding:
        numbers: dict[str, float] = {}
        tests: list[Hypothesis] = []
        unknown: list[str] = []
        self._explored(evidence, numbers, tests, unknown)
        self._sampled(evidence.draws, numbers, tests, unknown)
        words = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in numbers.items())
        if numbers.get("pass_at_k_s_of_round_0") == 0:
            words += f"; no item had {self.s} right samples of different text in round 0, so Pass@K-S cannot fall (`s: 1` counts right ones)"
        return Finding(words=words, numbers=numbers, tests=tests, unknown=unknown)

    def _explored(self, evidence: Evidence, numbers: dict[str, float], tests: list[Hypothesis], unknown: list[str]) -> None:
        after, before = evidence.candidate.get(HELD_OUT), evidence.start.get(HELD_OUT)
        if not after or not before or after.solutions is None or before.solutions is None or list(after.ids) != list(before.ids):
            unknown.append("no samples of the same held-out problems by candidate and round 0: set evaluation.samples")
        elif self.s > after.samples or after.samples != before.samples:
            unknown.append(f"{before.samples} and {after.samples} samples an item do not tell Pass@K-S of S = {self.s}")
        else:
            now, then = ([found >= self.s for found in solutions] for solutions in (after.solutions, before.solutions))
            lost, gained = (sum(map(int.__lt__, now, then)), sum(map(int.__gt__, now, then)))
            numbers |= {"pass_at_k_s": sum(now) / len(now), "pass_at_k_s_of_round_0": sum(then) / len(then)}
            said = f"Pass@{after.samples}-{self.s} fell by {100 * (lost - gained) / len(now):.1f} points since round 0; {100 * self.margin:g} may be"
            tests.append(Hypothesis(p=loss_above(lost, gained, len(now), self.margin), broken=said))

    def _sampled(self, draws: Sequence[Draws], numbers: dict[str, float], tests: list[Hypothesis], unknown: list[str]) -> None:
        several = [draw for draw in draws if draw.samples > 1]
        open_ones = [draw for draw in several if draw.correct < draw.samples]
        if several:
            numbers["unique_share"] = sum(draw.distinct for draw in several) / sum(draw.samples for draw in several)
        if not several:
            unknown.append("the round sampled no problem more than once")
        elif len(open_ones) >= self.enough:  # fewer: nearly all are solved, and there is nothing left to explore
            identical = sum(draw.distinct == 1 for draw in open_ones)
            numbers["identical"] = identical / len(open_ones)
            said = f"of {len(open_ones)} problems that are not always solved {identical} have samples of one text only: the sampler has collapsed"
            tests.append(Hypothesis(p=share_above(identical, len(open_ones), self.max_identical), broken=said))
