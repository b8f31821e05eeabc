"""A speaker learns from paths and what was said of them: cross-entropy on the choices that the instructions made.

    loss = mean over the choices of a batch of   -log p(the word that was said, or END | the path, what of the slot was said before)

A batch is `batch_size` demonstrations (prompt: the path's actions, completion: the instruction). Words that were not seen on the path
are passed over, so instructions that people wrote teach which of the seen words they use. `inherit=weights` goes on with the speaker's
weights, `nothing` begins with new ones; the optimizer and its schedule are this stage's own in both. Equal bytes on CPU, killed and
continued or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ratchet.components.policies import speaker as speakers
from ratchet.components.policies.speaker import Choice, demonstrated, sights_of
from ratchet.components.self_training.examples import reading_order
from ratchet.components.self_training.optimization import Schedule
from ratchet.components.self_training.session import Session, begun, contained
from ratchet.errors import InputError, NothingSelected
from ratchet.identity import canonical, derive_seed, digest
from ratchet.protocols import Metrics
from ratchet.records import Demonstration, line_of

Said = list[tuple[Choice, int]]
"""The choices of an instruction, each with the number of what was said."""


@dataclass(frozen=True, kw_only=True)
class SpeakerTraining:
    environment: Any
    """A `GraphEnvironment`."""
    steps: int
    batch_size: int
    learning_rate: float
    inherit: Literal["weights", "nothing"] = "weights"
    warmup_steps: int = 0
    final_lr_ratio: float = 0.1
    """Of a cosine to the end."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} counts something", got=getattr(self, name), allowed="1 or more")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} cannot be negative", got=getattr(self, name), allowed="0 or more")
        if self.learning_rate <= 0:
            raise InputError("learning_rate must be positive", got=self.learning_rate, allowed="more than 0")

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        if not examples:
            raise NothingSelected("there is no instruction to learn from")
        with contained():
            speaker = speakers.load(policy)
            if self.inherit == "nothing":
                speaker = speakers.create(speaker.shape, derive_seed(seed, "weights"))
            said = self._said(examples, speaker.shape.words)
            rows = digest([line_of(example) for example in examples])
            session = begun(self, speaker, policy=policy, rows=rows, scratch=scratch, seed=seed)
            self._learn(session, said)
            speakers.save(speaker.eval(), out)
            (out / "curve.jsonl").write_bytes(b"".join(canonical(row) + b"\n" for row in session.curve))
            losses = [row["loss"] for row in session.curve]
            tenth = max(1, len(losses) // 10)
            return {
                "steps": self.steps,
                "demonstrations": len(examples),
                "choices": sum(map(len, said)),
                "loss": sum(losses[-tenth:]) / tenth,
                "first_loss": sum(losses[:tenth]) / tenth,
            }

    def _said(self, examples: Sequence[Demonstration], words: int) -> list[Said]:
        """What every instruction chose; those that chose nothing have nothing to teach."""
        found = [list(demonstrated(sights_of(self.environment, e.episode, e.prompt), e.completion, words)) for e in examples]
        said = [choices for choices in found if choices]
        if not said:
            what = "no instruction has a word that is seen on its path"
            raise InputError(what, got=repr(examples[0].completion)[:80], next="choose a task whose goals are told in words of its environment")
        return said

    def _learn(self, session: Session, said: Sequence[Said]) -> None:
        """Take the steps that are left."""
        import torch

        at, speaker = session.position, session.model.train()
        schedule = Schedule(kind="cosine", peak=1.0, warmup=self.warmup_steps, horizon=self.steps, final=self.final_lr_ratio)
        pace = torch.optim.lr_scheduler.LambdaLR(session.optimizer, lambda update: schedule.ratio(at.step + update))
        order = reading_order(len(said), seed=at.seed, cursor=at.cursor, count=(self.steps - session.done) * self.batch_size)
        for first in range(0, len(order), self.batch_size):
            choices = [choice for row in order[first : first + self.batch_size] for choice in said[row]]
            session.seed_step()
            session.optimizer.zero_grad()
            wanted = torch.tensor([number for _, number in choices])
            loss = torch.nn.functional.cross_entropy(speaker([choice for choice, _ in choices]), wanted)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(speaker.parameters(), self.max_grad_norm or float("inf"))
            session.optimizer.step()
            session.record(float(loss), self.learning_rate * schedule.ratio(session.position.step), float(norm))
            pace.step()
