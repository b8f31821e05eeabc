"""Step-wise labels without annotators: how often a policy still reaches the right answer from each step of a completion.

Math-Shepherd (Wang et al., 2312.08935), in two selections with a sampling and a verification between them:

    rollouts  -StepPrefixes->  problems: prompt + steps 1…i    -sample N, verify->  completions of them
    completions  -StepLabels->  steps 1…i with c_i = (1/N) sum over j of 1[completion j is correct]    (soft estimation; hard: any)

One rule says what a step is, here, in `ValueHead` and in `ProcessReward`: a completion is cut after every `separator`, its end counts
as one, and a blank piece belongs to the step before it (at the start, to the first). A prefix thus says that its last step is
finished: `1+2=3` and the `1+2=3` of `1+2=35` differ.

A completion's last step is not a prefix, since nothing follows it: its label is the completion's own outcome. Completions of a single
step therefore give no prefix. In a chat template a prefix stands at the end of the user's turn, not at the start of the policy's own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from ratchet.errors import InputError
from ratchet.records import Demonstration, Problem, Rollout

JUDGED = ("correct", "wrong", "unparsed")
"""Outcomes that say something about the completion; a timeout or a crash says something about the verifier."""


def steps_of(completion: str, separator: str) -> list[str]:
    """The steps of a completion, each closed by a separator; none if it is blank."""
    steps, blank = [], ""
    for line in completion.removesuffix(separator).split(separator):
        piece = line + separator
        if line.strip():
            steps.append(blank + piece)
            blank = ""
        elif steps:
            steps[-1] += piece
        else:
            blank += piece
    return steps


def prefixes_of(rollout: Rollout, separator: str) -> Iterator[Problem]:
    """The problems of finishing a completion after each of its steps but the last; their ids say what they were made from."""
    prefixes = accumulate(steps_of(rollout.completion, separator)[:-1])
    for number, prefix in enumerate(prefixes, start=1):
        name = f"{rollout.problem_id}/{rollout.sample}/{number}/{len(prefix)}"
        yield Problem(id=name, prompt=rollout.prompt + prefix, reference=rollout.reference)


def _origin(rollout: Rollout) -> tuple[str, int]:
    """The problem that a prefix was made from, and how many characters of its prompt are the prefix."""
    problem_id, *numbers = rollout.problem_id.rsplit("/", 3)
    if len(numbers) != 3 or not numbers[-1].isdecimal():
        raise InputError(
            "a rollout is not of a step prefix", got=rollout.problem_id, allowed="PROBLEM/SAMPLE/STEP/CHARACTERS, as StepPrefixes names them"
        )
    return problem_id, int(numbers[-1])


@dataclass(frozen=True, kw_only=True)
class StepPrefixes:
    """The distinct step prefixes of each problem's completions, evenly spread over them where there are more than the cap."""

    separator: str = "\n"
    max_per_problem: int | None = None
    """None: all of them."""

    def __post_init__(self) -> None:
        check_separator(self.separator)
        if self.max_per_problem is not None and self.max_per_problem < 1:
            raise InputError("max_per_problem counts something", got=self.max_per_problem, allowed="1 or more, or null")

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Problem]:
        by_problem: dict[str, dict[str, Problem]] = {}
        for rollout in rollouts:
            distinct = by_problem.setdefault(rollout.problem_id, {})
            for prefix in prefixes_of(rollout, self.separator):
                distinct.setdefault(prefix.prompt, prefix)
        for distinct in by_problem.values():
            prefixes = list(distinct.values())
            kept = min(len(prefixes), self.max_per_problem or len(prefixes))
            yield from (prefixes[index * len(prefixes) // kept] for index in range(kept))


@dataclass(frozen=True, kw_only=True)
class StepLabels:
    """Every prefix with the share of its completions that are correct, and some completed ones with their own outcome."""

    separator: str = "\n"
    label: Literal["soft", "hard"] = "soft"
    """`soft`: the share that is correct; `hard`: whether any is."""
    whole_per_prefix: int = 2
    """Distinct completions of each prefix that are labelled as a whole, so that last steps are learnt too."""

    def __post_init__(self) -> None:
        check_separator(self.separator)
        if self.label not in ("soft", "hard"):
            raise InputError("unknown label", got=self.label, allowed="soft, hard")
        if self.whole_per_prefix < 0:
            raise InputError("whole_per_prefix counts something", got=self.whole_per_prefix, allowed="0 or more")

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Demonstration]:
        by_prefix: dict[str, list[Rollout]] = {}
        for rollout in rollouts:
            if rollout.outcome in JUDGED:
                by_prefix.setdefault(rollout.problem_id, []).append(rollout)
        for completions in by_prefix.values():
            yield self._labelled(completions[0], "", self._value(completions))
            distinct = {rollout.completion: rollout for rollout in reversed(completions) if rollout.completion.strip()}
            for rollout in list(reversed(distinct.values()))[: self.whole_per_prefix]:
                yield self._labelled(rollout, rollout.completion, float(rollout.outcome == "correct"))

    def _value(self, completions: Sequence[Rollout]) -> float:
        share = sum(rollout.outcome == "correct" for rollout in completions) / len(completions)
        return share if self.label == "soft" else float(share > 0)

    def _labelled(self, rollout: Rollout, rest: str, label: float) -> Demonstration:
        """The original prompt, and what followed it: the prefix and the rest."""
        problem_id, characters = _origin(rollout)
        border = len(rollout.prompt) - characters
        return Demonstration(prompt=rollout.prompt[:border], completion=rollout.prompt[border:] + rest, problem_id=problem_id, label=label)


def check_separator(separator: str) -> None:
    """Refuse what cannot separate steps."""
    if not separator:
        raise InputError("a separator is a text", got=repr(separator), allowed="at least one character")
