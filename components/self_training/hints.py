"""The problems a policy failed, to be tried again with the answer shown: STaR's rationalisation (2203.14465, §3.2).

A problem comes back if none of its rollouts is correct. Its id and prompt are unchanged and only `shown` carries the hint, so the
completions that the policy finds with it are verified as ever and then trained on as if the hint had never been there. What the
hint may teach besides (to name the answer without a reason) is the verifier's and the threshold's to judge. Rollouts carry no worked
solution and no difficulty, so the problems come back without.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ratchet.components.self_training.selection import by_problem, is_correct
from ratchet.errors import InputError
from ratchet.records import Problem, Rollout

FIELDS = {"prompt", "reference"}


@dataclass(frozen=True, kw_only=True)
class Hints:
    template: str = "[{reference}]{prompt}"
    """What the policy is shown; the task's warm-up examples must know this form for a small policy to make use of it."""

    def __post_init__(self) -> None:
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise InputError(f"the template cannot be read: {error}", got=self.template, allowed="{{ and }} for literal braces") from None
        if found != FIELDS:
            raise InputError("a hint shows the prompt and the reference", got=self.template, allowed="{prompt} and {reference}, both and no other")

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Problem]:
        for problem_id, tried in by_problem(rollouts).items():
            if not any(is_correct(rollout) for rollout in tried):
                prompt, reference = tried[0].prompt, tried[0].reference
                if reference is None:
                    raise InputError(f"problem {problem_id} has no reference to give as a hint", next="leave the hints out for this task")
                shown = self.template.format(prompt=prompt, reference=reference)
                yield Problem(id=problem_id, prompt=prompt, reference=reference, shown=shown)
