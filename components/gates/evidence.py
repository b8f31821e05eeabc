"""What gates look at, and how they say what they found.

A policy is looked at by what it answered on held-out problems, item by item, so that two policies are compared on the same items. A gate
states hypotheses that hold in a healthy round, each with a p-value; `Panel` decides over all of them together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ratchet.components.self_training.selection import by_problem, is_correct, reward_of
from ratchet.errors import InputError
from ratchet.records import Demonstration, PreferencePair, Problem, Record, Rollout

R = TypeVar("R", bound=Record)

HELD_OUT = "held-out"
"""The benchmark that the run itself is measured on."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One policy on one benchmark, a value an item."""

    ids: Sequence[str]
    correct: Sequence[float]
    """1 where the run's own verifier found the greedy rollout correct."""
    reward: Sequence[float] = ()
    tokens: Sequence[int] = ()
    labelled: Sequence[float] | None = None
    """1 where the labels' own verifier did; None: there is none."""
    solutions: Sequence[int] | None = None
    """Correct rollouts of different text among the item's samples."""
    samples: int = 0

    @property
    def truth(self) -> Sequence[float]:
        """Whether an item is right, by the labels where there are any."""
        return self.correct if self.labelled is None else self.labelled


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The training rollouts of one problem, the policy's own."""

    samples: int
    distinct: int
    correct: int
    unhealthy: int
    """On which the verifier ran out of time or crashed."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One policy on the probe set: problem_id → outcome (`correct`: it kept to the rule, `wrong`: it broke it)."""

    outcomes: Mapping[str, str]
    prompts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a round gives its gates to look at."""

    look: int = 1
    candidate: Mapping[str, Measurement] = field(default_factory=dict[str, Measurement])
    champion: Mapping[str, Measurement] = field(default_factory=dict[str, Measurement])
    start: Mapping[str, Measurement] = field(default_factory=dict[str, Measurement])
    """Round 0."""
    draws: Sequence[Draws] = ()
    examples: Sequence[Demonstration | PreferencePair] = ()
    held_out: Sequence[Problem] = ()
    """What must not be trained on: the problems of the test, of the gates' split, of the benchmarks and of the probe."""
    probe: Probe | None = None
    start_probe: Probe | None = None
    past_probes: Sequence[Probe] = ()
    """The earlier rounds', oldest first, round 0's among them."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A hypothesis that a healthy round fulfils."""

    p: float
    """How likely such data are, at most, where it holds."""
    broken: str
    """What to say where it is rejected."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a gate found."""

    words: str
    """What it looked at and saw, for when nothing is amiss."""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    tests: Sequence[Hypothesis] = ()
    facts: Sequence[str] = ()
    """What is wrong and no question of chance."""
    unknown: Sequence[str] = ()
    """What could not be told, and why."""
    warnings: Sequence[str] = ()
    """What does not fail the round, and somebody should look at."""


def evidence_of(given: Mapping[str, Sequence[Record]], look: int) -> Evidence:
    """Evidence from a `gate` stage's inputs, by their names (`ratchet/flows/gating.py` gives them)."""
    rollouts = _all(given, "rollouts", Rollout)
    past = sorted((name for name in given if name.startswith("past.")), key=lambda name: int(name.split(".")[1]))
    return Evidence(
        look=look,
        candidate=_measurements(given, "candidate"),
        champion=_measurements(given, "champion"),
        start=_measurements(given, "start"),
        draws=draws_of(rollout for rollout in rollouts if rollout.source is None),
        examples=[*_all(given, "examples", Demonstration), *_all(given, "examples", PreferencePair)],
        held_out=_all(given, "problems", Problem),
        probe=_probe(given.get("candidate.probe")),
        start_probe=_probe(given.get("start.probe")),
        past_probes=[found for name in past if (found := _probe(given[name])) is not None],
    )


def measurement_of(greedy: Sequence[Rollout], sampled: Sequence[Rollout] = (), labelled: Sequence[Rollout] | None = None) -> Measurement:
    """A policy's verified rollouts on a benchmark as values by item; `labelled` are the greedy ones, judged by the labels."""
    drawn, judged = by_problem(sampled), {rollout.problem_id: rollout for rollout in labelled or ()}
    if len({rollout.problem_id for rollout in greedy}) != len(greedy):
        raise InputError("a problem has one greedy rollout", got=f"{len(greedy)} of fewer problems")
    return Measurement(
        ids=[rollout.problem_id for rollout in greedy],
        correct=[float(is_correct(rollout)) for rollout in greedy],
        reward=[reward_of(rollout) for rollout in greedy],
        tokens=[rollout.tokens for rollout in greedy],
        labelled=[float(is_correct(judged[rollout.problem_id])) for rollout in greedy] if labelled is not None else None,
        solutions=[len({r.completion for r in drawn.get(g.problem_id, []) if is_correct(r)}) for g in greedy] if drawn else None,
        samples=max(map(len, drawn.values()), default=0),
    )


def draws_of(rollouts: Iterable[Rollout]) -> list[Draws]:
    """Training rollouts, counted by problem."""
    return [
        Draws(
            samples=len(mine),
            distinct=len({rollout.completion for rollout in mine}),
            correct=sum(map(is_correct, mine)),
            unhealthy=sum(rollout.outcome in ("timeout", "crashed") for rollout in mine),
        )
        for mine in by_problem(rollouts).values()
    ]


def _measurements(given: Mapping[str, Sequence[Record]], who: str) -> dict[str, Measurement]:
    found: dict[str, Measurement] = {}
    if f"{who}.greedy" in given:
        labelled = _rows(given[f"{who}.labelled"], Rollout) if f"{who}.labelled" in given else None
        found[HELD_OUT] = measurement_of(_rows(given[f"{who}.greedy"], Rollout), _rows(given.get(f"{who}.sampled", ()), Rollout), labelled)
    for name in given:
        if name.startswith(f"{who}.benchmark."):
            found[name.removeprefix(f"{who}.benchmark.")] = measurement_of(_rows(given[name], Rollout))
    return found


def _probe(rows: Sequence[Record] | None) -> Probe | None:
    if rows is None:
        return None
    rollouts = _rows(rows, Rollout)
    return Probe(outcomes={r.problem_id: str(r.outcome) for r in rollouts}, prompts={r.problem_id: r.prompt for r in rollouts})


def _all(given: Mapping[str, Sequence[Record]], name: str, kind: type[R]) -> list[R]:
    """The rows of a kind in the inputs of a name: `rollouts.0`, `rollouts.1`, …"""
    return [row for key, rows in given.items() if key.split(".")[0] == name for row in _rows(rows, kind)]


def _rows(rows: Sequence[Record], kind: type[R]) -> list[R]:
    return [row for row in rows if isinstance(row, kind)]
