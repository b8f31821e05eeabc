"""Outcome and process together: a right answer, plus how sound its weakest step looks to a value model.

    reward = 1[outcome is correct] + weight · r_prm        r_prm = min over steps of (2 p_i - 1), in [-1, 1]

B-STaR (Zeng et al., 2412.17256), with Math-Shepherd's minimum (2312.08935). The model is the role `prm`, trained by
`ValueHead`; p_i is its value at the end of step i, and one forward pass gives all of a completion's. What a step is, the model's
folder says. `scores` are the two terms of the sum. Every completion gets both, whatever its outcome, so an unparsed or timed-out one
has its process term alone; a blank one has no step to believe in: r_prm = -1. What lies past the model's positions is not read.
Values are rounded to six decimals, so that they do not hang on which completions shared a batch (up to ties of rounding).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ratchet.components.self_training.value import Reader, load_value
from ratchet.errors import InputError
from ratchet.protocols import Verifier
from ratchet.records import Rollout

LOWEST = -1.0


@dataclass(frozen=True, kw_only=True)
class ProcessReward:
    """`outcome`'s verdict with a reward that also counts the steps."""

    version = 1
    roles = ("prm",)
    verdict_of = "outcome"  # whose outcome it passes on; it adds to the reward only

    outcome: Verifier
    weight: float = 1.0
    batch_size: int = 64
    """Completions a forward pass."""
    rows_per_shard: int = 4096

    def __post_init__(self) -> None:
        for name in ("batch_size", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        if self.weight < 0:
            raise InputError("weight cannot be negative", got=self.weight, allowed="0 or more")

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        if "prm" not in roles:
            raise InputError("a process reward needs a process-reward model", got=sorted(roles), allowed="a role named prm")
        judged = list(self.outcome.verify(rollouts, roles=roles))
        value, reader = load_value(roles["prm"])
        known = self._weakest(value, reader, judged)
        for rollout in judged:
            correct = float(rollout.outcome == "correct")
            process = self.weight * known[rollout.prompt, rollout.completion]
            yield replace(rollout, reward=correct + process, scores={"outcome": correct, "process": process})

    def _weakest(self, value: Any, reader: Reader, rollouts: Sequence[Rollout]) -> dict[tuple[str, str], float]:
        """r_prm of every distinct text."""
        import torch

        texts = {(rollout.prompt, rollout.completion): reader.read(rollout.prompt, rollout.completion) for rollout in rollouts}
        weakest = dict.fromkeys(texts, LOWEST)
        order = sorted((text for text in texts if texts[text].ends), key=lambda text: len(texts[text].tokens))
        for first in range(0, len(order), self.batch_size):
            batch = order[first : first + self.batch_size]
            with torch.inference_mode():
                values = iter(value([texts[text] for text in batch]).sigmoid().tolist())
            for text in batch:
                weakest[text] = round(2 * min(next(values) for _ in texts[text].ends) - 1, 6)
        return weakest
