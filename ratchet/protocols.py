"""The parts of a self-improvement round, one verb each.

A component is a frozen, keyword-only dataclass with the verb as a method; it inherits from nothing and is registered nowhere. Its
fields are its configuration and thereby its identity. Class attributes that the house reads where they are present:

- `version: int` (1): raise it when the code changes what comes out;
- `seeded: bool`: whether the verb draws random numbers, so that the stage's seed is part of its identity (default: by verb; a
  property where it depends on a field, such as a temperature of 0);
- `roles: tuple[str, ...]`: the roles a verb reads besides its inputs, such as `("prm",)`.

A field `rows_per_shard` makes the stage sharded: its first record input is cut into runs of so many rows. With a true field
`shard_by_group` each group of problems (a scan, say) is a shard instead.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ratchet.records import Demonstration, PreferencePair, Problem, Record, Rollout

Metrics = Mapping[str, float]
"""Numbers that are a function of the stage's inputs: no times."""


class Task(Protocol):
    """A Proposer: a named source of problems. A field `split` says which: `worked`, `train`, `dev` or `test`."""

    def propose(self) -> Iterator[Problem]:
        """The problems of the split, in an order that is always the same."""
        ...


class Policy(Protocol):
    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        """Write round 0's policy under `out` as a `transformers` folder; `examples` carry worked solutions. `scratch` as in `train`."""
        ...


class Synthesizer(Protocol):
    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        """Sample completions, all of a problem's one after the other, problems in the order given. `scratch` as in `train`."""
        ...


class Verifier(Protocol):
    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        """The same rollouts in the same order, with `answer`, `outcome`, `reward` and `scores` set. A bad rollout never raises."""
        ...


class Selector(Protocol):
    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Demonstration] | Iterator[PreferencePair] | Iterator[Problem]:
        """Turn verified rollouts into what the next stage reads."""
        ...


class Trainer(Protocol):
    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        """Write the trained policy under `out`. `scratch` survives a killed attempt: checkpoints to continue from go there."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What an evaluation found."""

    metrics: Metrics
    """`name`, and `name.low` / `name.high` where there is an interval."""
    items: Sequence[Mapping[str, Any]] = field(default_factory=tuple[Mapping[str, Any], ...])
    """One row per problem, for paired comparison; each has `problem_id`."""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """What else is to be seen, such as pictures: file name → content."""


class Evaluator(Protocol):
    """Fields `samples` and `temperature` say how the sampled rollouts are to be drawn; 0 samples: only greedy ones."""

    def evaluate(self, greedy: Sequence[Rollout], sampled: Sequence[Rollout]) -> Report:
        """Measure a policy by its verified rollouts on held-out problems: one greedy each, and `samples` sampled ones."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a controller decided, with every number it decided on."""

    knobs: Metrics
    metrics: Metrics
    cells: Sequence[Mapping[str, Any]]
    """Every cell of the grid that was searched, one row each."""


class Walk(Protocol):
    """An open episode: where the agent is, and what it has seen."""

    path: list[str]
    """The places that were passed, the start first; going over a known way again counts again."""

    def view(self) -> Any:
        """What the agent knows now, in the environment's own terms."""
        ...

    def step(self, place: str) -> None:
        """Go to a place that the view offers, passing those on the way; InputError if it offers none such."""
        ...

    def teacher(self) -> str:
        """The next place on the shortest way for one who knows the whole map, or `STOP` at the goal."""
        ...


class Environment(Protocol):
    """A world in which a policy acts. Episodes are plain data (`Problem.episode`), so any job can open them."""

    def open(self, episode: Mapping[str, Any]) -> Walk:
        """Begin an episode. InputError names what the world does not have."""
        ...

    def restore(self, episode: Mapping[str, Any], path: Sequence[str]) -> Walk:
        """The episode as it stands after a path; InputError names a step that the world does not allow."""
        ...

    def judge(self, episode: Mapping[str, Any], path: Sequence[str]) -> Metrics:
        """How good a path is that was ended by `STOP` at its last place: `success` (0 or 1) and what else the world measures."""
        ...


STOP = "stop"
"""The action that ends an episode."""


class Controller(Protocol):
    def adjust(self, cells: Mapping[str, Sequence[Rollout]], problems: Sequence[Problem]) -> Decision:
        """Choose the knobs of the coming round from verified rollouts, one list per grid value; `problems` are those to be sampled."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a gate has to say of a round."""

    name: str
    verdict: Literal["pass", "fail", "inconclusive"]
    words: str
    numbers: Metrics = field(default_factory=dict[str, float])
    warnings: Sequence[str] = ()
    """What does not decide, and should be looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What the gates decided together."""

    promoted: bool
    verdicts: Sequence[Verdict]


class Gates(Protocol):
    """`gates` does it; a field `look` says which round it is, so that many looks share one error rate."""

    def judge(self, given: Mapping[str, Sequence[Record]]) -> Judgement:
        """Whether a candidate may be promoted, by what it, the champion and round 0 answered (named inputs, `flows/gating.py`)."""
        ...


__all__ = [
    "STOP", "Controller", "Decision", "Environment", "Evaluator", "Gates", "Iterable", "Judgement", "Metrics", "Policy", "Report", "Selector",
    "Synthesizer", "Task", "Trainer", "Verdict", "Verifier", "Walk",
]  # fmt: skip
