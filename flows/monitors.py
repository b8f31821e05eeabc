"""What is looked at in every round whether there are gates or not: warnings, each with what usually helps. They decide nothing.

All of it is read from what the stages report (`ratchet/yields.py`, trainers, verifiers); a number that a stage does not report is not
looked at. The bounds are rules of thumb, for eyes to be drawn to: a warning is no verdict, and its absence none either.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

NEVER, ALWAYS = 0.7, 0.8
"""Shares of problems that no rollout solved, and that every rollout solved."""
TELLING = 0.1
"""Share of problems whose rollouts differ in reward: only these teach anything by comparison."""
UNIQUE = 0.3
"""Different texts / rollouts. With K samples 1/K is the least there is."""
ENTROPY = 0.02
"""Nats a token, mean over rollouts."""
UNHEALTHY = 0.01
"""Share of rollouts on which the verifier ran out of time or crashed."""
GRAD_NORM = 10.0
MARGINS = ("margin_last", "reward_margin_last", "rewards_margin_last", "margin")
"""Under which a trainer on pairs may report the gap between chosen and rejected at its end."""

Reported = tuple[str, str, Mapping[str, Any]]
"""A stage's verb, title and metrics."""


def warnings_of(stages: Iterable[Reported]) -> list[str]:
    """The warnings of a round, from the stages that served the round itself."""
    own = [(verb, metrics) for verb, title, metrics in stages if title.split(" · ")[1:] and _serves_the_round(verb, title)]
    found: list[str] = []
    selected = next((metrics for verb, metrics in own if verb == "select" and metrics.get("problems")), None)
    if selected:
        found += _of_the_yield(selected)
    for verb, metrics in own:
        if verb == "verify" and metrics.get("rollouts", 0) > 1:
            found += _of_the_reward(metrics)
        elif verb == "train":
            found += _of_the_training(metrics)
    return list(dict.fromkeys(found))


def _serves_the_round(verb: str, title: str) -> bool:
    words = title.split(" · ")
    return len(words) == 2 and words[1].partition(" #")[0] == verb


def _of_the_yield(told: Mapping[str, float]) -> Iterator[str]:
    problems, own = told["problems"], told["own"]
    never, always, telling = (told[name] / problems for name in ("never_solved", "always_solved", "telling"))
    unique, unhealthy = told["distinct"] / own, told["unhealthy"] / own
    if never > NEVER:
        yield f"{_percent(never)} of the problems are never solved: easier problems, more samples or hints (recipe=star) usually help"
    if always > ALWAYS:
        yield f"{_percent(always)} of the problems are always solved: they teach nothing new; take harder ones"
    if own > problems:  # of one sample nothing can differ
        if telling < TELLING:
            only = f"the reward tells rollouts apart on {_percent(telling)} of the problems only"
            yield f"{only}: more samples, or problems nearer to the policy's level, usually help"
        if unique < max(UNIQUE, 1.05 * problems / own):
            yield f"{_percent(unique)} of the rollouts are different texts: a higher temperature, or fewer steps on the same ones, usually helps"
    if told.get("entropies") and told["entropy_sum"] / told["entropies"] < ENTROPY:
        yield f"the policy is sure of every token (entropy {told['entropy_sum'] / told['entropies']:.3f} nats): sample at a higher temperature"
    if unhealthy > UNHEALTHY:
        yield f"the verifier timed out or crashed on {_percent(unhealthy)} of the rollouts: raise its limit, or look at `ratchet logs`"


def _of_the_reward(told: Mapping[str, float]) -> Iterator[str]:
    mean = told.get("reward_sum", 0.5) / told["rollouts"]
    if told.get("correct") == 0:
        yield "no rollout was found correct: look at completions and at the verifier's marker before sampling more"
    elif mean == 1 and told.get("correct") == told["rollouts"]:
        yield "every rollout was found correct: the problems are too easy, or the verifier accepts anything"


def _of_the_training(told: Mapping[str, float]) -> Iterator[str]:
    norm = told.get("grad_norm_last")
    if norm is not None and norm > GRAD_NORM:
        yield f"the gradient's norm ended at {norm:.1f}: a lower learning_rate or a longer warm-up usually helps"
    elif norm == 0:
        yield "the gradient ended at 0: nothing was learned any more"
    for name in MARGINS:
        if name in told and told[name] <= 0:
            yield f"the gap between chosen and rejected ended at {told[name]:.3f}: more steps, or pairs that differ more, usually help"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
