"""Trajectories of a graph agent in an environment, `samples` of each problem, many episodes a forward pass.

Episodes advance side by side: at every decision the agent reads the maps of all that still walk. It samples from
softmax(logits / temperature), or at temperature 0 takes the likeliest action; an episode that has not stopped after `max_decisions`
is unfinished where it stands. A rollout's completion is the actions taken, parted by blanks, `tokens` their number, `entropy` that of
a decision in nats, on average.

What an episode draws depends on the stage's seed, its problem and its sample alone. With `shard_by_group` every group of problems (a
scan, say) is a shard: SID's one process per scan (2509.24910; `rows_per_shard` counts problems where there are no groups).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.components.environments.views import STOP
from ratchet.components.policies.graph_agent import Moment, actions_of, load
from ratchet.errors import InputError
from ratchet.identity import derive_seed
from ratchet.interruption import safe_point
from ratchet.records import Problem, Rollout


@dataclass(frozen=True, kw_only=True)
class Explorer:
    environment: Any
    """A `GraphEnvironment`."""
    samples: int
    temperature: float
    max_decisions: int = 15
    batch_size: int = 64
    """Episodes side by side."""
    rows_per_shard: int | None = None
    shard_by_group: bool = True

    def __post_init__(self) -> None:
        for name in ("samples", "max_decisions", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InputError("a temperature cannot be negative or endless", got=self.temperature, allowed="0 (greedy) or more")
        if self.temperature == 0 and self.samples > 1:
            raise InputError("greedy samples are all the same", got=f"samples={self.samples}", allowed="samples=1 where temperature is 0")

    @property
    def seeded(self) -> bool:
        return self.temperature > 0

    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        agent, reader = load(policy)
        asked = [(problem, sample) for problem in problems for sample in range(self.samples)]
        for first in range(0, len(asked), self.batch_size):
            batch = asked[first : first + self.batch_size]
            seeds = [derive_seed(seed, problem.id, sample) for problem, sample in batch]
            walks = explore(
                agent.eval(), reader, self.environment, [p for p, _ in batch], seeds, temperature=self.temperature, decisions=self.max_decisions
            )
            for (problem, sample), walk in zip(batch, walks, strict=True):
                yield Rollout(
                    problem_id=problem.id,
                    sample=sample,
                    prompt=problem.prompt,
                    completion=" ".join(walk.actions),
                    reference=problem.reference,
                    tokens=len(walk.actions),
                    finished=walk.stopped,
                    entropy=walk.entropy / len(walk.actions),
                    episode=problem.episode,
                    group=problem.group,
                )
            safe_point()


class Exploration:
    """One episode under way."""

    def __init__(self, environment: Any, problem: Problem, seed: int) -> None:
        import numpy as np

        if problem.episode is None:
            raise InputError(f"problem {problem.id} has no episode to walk in", next="choose a task for the environment, such as task=babyai")
        self.walk = environment.open(problem.episode)
        self.goal = problem.prompt
        self.draws = np.random.default_rng(seed)
        self.actions: list[str] = []
        self.entropy = 0.0

    @property
    def stopped(self) -> bool:
        return self.actions[-1:] == [STOP]


def explore(
    agent: Any,
    reader: Any,
    environment: Any,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    *,
    temperature: float,
    decisions: int,
    watch: Callable[["Exploration", Moment, Sequence[str]], None] = lambda walk, moment, actions: None,
) -> list[Exploration]:
    """Walk every problem's episode to its end; `watch` is told of each decision before it is taken."""
    import torch

    walks = [Exploration(environment, problem, seed) for problem, seed in zip(problems, seeds, strict=True)]
    for _ in range(decisions):
        going = [walk for walk in walks if not walk.stopped]
        if not going:
            break
        views = [walk.walk.view() for walk in going]
        moments = [reader.read(view, walk.goal, len(walk.actions)) for view, walk in zip(views, going, strict=True)]
        with torch.no_grad():
            shares = (agent(moments).double() / (temperature or 1.0)).softmax(-1)
            entropies = torch.special.entr(shares).sum(-1).tolist()
        for row, (walk, view) in enumerate(zip(going, views, strict=True)):
            actions = actions_of(view)
            watch(walk, moments[row], actions)
            action = actions[_chosen(shares[row, : len(actions)], walk.draws, temperature)]
            walk.actions.append(action)
            walk.entropy += entropies[row]
            if action != STOP:
                walk.walk.step(action)
    return walks


def _chosen(shares: Any, draws: Any, temperature: float) -> int:
    """The likeliest action, the first of equals; or one drawn by its share."""
    if not temperature:
        return int(shares.argmax())
    below = shares.cumsum(0)
    return min(int((below <= draws.random() * float(below[-1])).sum()), len(shares) - 1)
