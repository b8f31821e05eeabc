"""Imitation for a graph agent: cross-entropy on the decisions of demonstrations, and on its own walks with the teacher's advice (DAgger).

    loss = imitation · CE(demonstrated action | map so far) + dagger · CE(teacher's action | map of the agent's own sampled walk)

each a mean over the batch's decisions. A batch is `batch_size` demonstrations; for DAgger (Ross et al., 2011; DUET's and SID's
`dagger_sample=sample`) the agent walks the same episodes, sampling at temperature 1, and at every place is told the shortest way on.
SID pre-trains with imitation alone and fine-tunes with dagger 1 and imitation 0.2 (`ml_weight`).

`inherit=weights` goes on with the policy's weights, `nothing` begins with new ones of the same shape; the optimizer and its schedule
are this stage's own in both. Equal bytes on CPU, killed and continued or not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ratchet.components.environments.views import STOP
from ratchet.components.policies import graph_agent
from ratchet.components.policies.graph_agent import Moment, Reader, actions_of
from ratchet.components.self_training.examples import reading_order
from ratchet.components.self_training.optimization import Schedule
from ratchet.components.self_training.session import Session, begun, contained
from ratchet.components.self_training.training_state import Position
from ratchet.components.synthesis.explorer import explore
from ratchet.errors import InputError, NothingSelected
from ratchet.identity import canonical, derive_seed, digest
from ratchet.protocols import Metrics
from ratchet.records import Demonstration, Problem, line_of

Decision = tuple[Moment, int]
"""What the agent saw, and the number of the action it is to learn."""

KEPT = 20_000
"""Decisions of demonstrations that are kept in memory, some 15 KB each; the others are read anew each time."""


@dataclass(frozen=True, kw_only=True)
class Imitation:
    environment: Any
    """A `GraphEnvironment`."""
    steps: int
    batch_size: int
    learning_rate: float
    imitation: float = 1.0
    dagger: float = 0.0
    max_decisions: int = 15
    """Of a walk with the teacher's advice."""
    inherit: Literal["weights", "nothing"] = "weights"
    warmup_steps: int = 0
    final_lr_ratio: float = 0.1
    """Of a cosine to the end."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_decisions", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        for name in ("imitation", "dagger", "warmup_steps", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} cannot be negative", got=getattr(self, name), allowed="0 or more")
        if not self.imitation + self.dagger:
            raise InputError("there is nothing to learn from", got="imitation=0 dagger=0", allowed="one of them above 0")
        if self.learning_rate <= 0:
            raise InputError("learning_rate must be positive", got=self.learning_rate, allowed="more than 0")

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        if not examples:
            raise NothingSelected("there is no demonstration to train on")
        with contained():
            agent, reader = graph_agent.load(policy)
            if self.inherit == "nothing":
                agent = graph_agent.create(agent.shape, derive_seed(seed, "weights"))
            rows = digest([line_of(example) for example in examples])
            session = begun(self, agent, policy=policy, rows=rows, scratch=scratch, seed=seed)
            learnt = self._learn(session, Demonstrations(self.environment, reader, examples), reader)
            graph_agent.save(agent.eval(), out)
            (out / "curve.jsonl").write_bytes(b"".join(canonical(row) + b"\n" for row in session.curve))
            losses = [row["loss"] for row in session.curve]
            tenth = max(1, len(losses) // 10)
            return {
                "steps": self.steps,
                "demonstrations": len(examples),
                "decisions": learnt,
                "loss": sum(losses[-tenth:]) / tenth,
                "first_loss": sum(losses[:tenth]) / tenth,
            }

    def _learn(self, session: Session, demonstrations: "Demonstrations", reader: Reader) -> int:
        """Take the steps that are left; return how many demonstrated decisions there are in one reading."""
        import torch

        at, agent = session.position, session.model
        schedule = Schedule(kind="cosine", peak=1.0, warmup=self.warmup_steps, horizon=self.steps, final=self.final_lr_ratio)
        pace = torch.optim.lr_scheduler.LambdaLR(session.optimizer, lambda update: schedule.ratio(at.step + update))
        order = reading_order(len(demonstrations), seed=at.seed, cursor=at.cursor, count=(self.steps - session.done) * self.batch_size)
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            session.seed_step()
            parts = [(self.imitation, demonstrations.decisions(rows))] if self.imitation else []
            if self.dagger:
                parts.append((self.dagger, self._advised(agent.eval(), reader, demonstrations.problems(rows), session.position)))
            session.optimizer.zero_grad()
            loss = sum(weight * _cross_entropy(agent.train(), decisions) for weight, decisions in parts)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(agent.parameters(), self.max_grad_norm or float("inf"))
            session.optimizer.step()
            session.record(float(loss), self.learning_rate * schedule.ratio(session.position.step), float(norm))
            pace.step()
        return demonstrations.actions

    def _advised(self, agent: Any, reader: Reader, problems: Sequence[Problem], at: Position) -> list[Decision]:
        """The agent's own walks, at each decision with what the teacher would have done."""
        advised: list[Decision] = []

        def watch(walk: Any, moment: Moment, actions: Sequence[str]) -> None:
            advised.append((moment, actions.index(walk.walk.teacher())))

        seeds = [derive_seed(at.seed, "dagger", at.cursor + row) for row in range(len(problems))]
        explore(agent, reader, self.environment, problems, seeds, temperature=1.0, decisions=self.max_decisions, watch=watch)
        return advised


class Demonstrations:
    """Demonstrations as decisions, each walked in the environment when it is first read."""

    def __init__(self, environment: Any, reader: Reader, examples: Sequence[Demonstration]) -> None:
        self._environment, self._reader, self._examples = environment, reader, examples
        self._known: dict[int, list[Decision]] = {}
        self._kept = 0
        self.actions = sum(len(example.completion.split()) for example in examples)

    def __len__(self) -> int:
        return len(self._examples)

    def problems(self, rows: Sequence[int]) -> list[Problem]:
        chosen = [self._examples[row] for row in rows]
        return [Problem(id=example.problem_id or "", prompt=example.prompt, episode=example.episode) for example in chosen]

    def decisions(self, rows: Sequence[int]) -> list[Decision]:
        """Those of some demonstrations, one after the other."""
        return [decision for row in rows for decision in self._of(row)]

    def _of(self, row: int) -> list[Decision]:
        if row in self._known:
            return self._known[row]
        found = list(self._walked(self._examples[row]))
        if self._kept + len(found) <= KEPT:
            self._known[row] = found
            self._kept += len(found)
        return found

    def _walked(self, example: Demonstration) -> Iterator[Decision]:
        if example.episode is None:
            raise InputError(f"the demonstration of problem {example.problem_id} has no episode", next="select from rollouts of an environment")
        walk = self._environment.open(example.episode)
        for time, action in enumerate(example.completion.split()):
            view = walk.view()
            actions = actions_of(view)
            if action not in actions:
                what = f"the demonstration of problem {example.problem_id} goes where its episode does not offer to go"
                raise InputError(what, got=f"action {time + 1}: {action}", allowed=", ".join(actions))
            yield self._reader.read(view, example.prompt, time), actions.index(action)
            if action != STOP:
                walk.step(action)


def _cross_entropy(agent: Any, decisions: Sequence[Decision]) -> Any:
    import torch

    logits = agent([moment for moment, _ in decisions])
    return torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in decisions]))
