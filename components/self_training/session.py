"""One stage's training under way: what is trained, where it stands, its curve, and its checkpoints."""

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ratchet.components.self_training.optimization import adamw, moments, take_moments, trained
from ratchet.components.self_training.training_state import Position, TrainingState, newest_checkpoint, save_checkpoint, weights_digest
from ratchet.errors import CorruptArtifact, RatchetError
from ratchet.identity import derive_seed, describe, digest
from ratchet.interruption import asked, safe_point


@dataclass(kw_only=True)
class Session:
    """A model and its optimizer between `start` and `start + steps`."""

    model: Any
    optimizer: Any
    start: Position
    batch_size: int
    save_every: int
    folder: Path
    """Of the checkpoints."""
    work: str
    """Digest of what is being done, so that no other work's checkpoint is taken for ours."""
    done: int = 0
    curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])

    @property
    def position(self) -> Position:
        return replace(self.start, step=self.start.step + self.done, cursor=self.start.cursor + self.done * self.batch_size)

    def restore(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        state = newest_checkpoint(self.folder, work=self.work)
        if state is None:
            return
        if not take_weights(dict(trained(self.model)), state.weights):
            raise CorruptArtifact(f"a checkpoint in {self.folder} does not fit the policy it is of")
        take_moments(self.model, self.optimizer, state.optimizer)
        self.done, self.curve = state.extra["done"], state.extra["curve"]

    def seed_step(self) -> None:
        """Seed what a step draws (dropout) by where the step stands, so that continuing needs no generator's state."""
        import torch

        seed = derive_seed(self.position.seed, "step", self.position.cursor)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():  # torch.manual_seed would queue a call for a GPU that is not there, at a millisecond a step
            torch.cuda.manual_seed(seed)

    def record(self, loss: float, learning_rate: float, grad_norm: float) -> None:
        """Note a finished step, and save a checkpoint where one is due."""
        self.done += 1
        row = {"step": self.position.step, "loss": loss, "learning_rate": learning_rate, "grad_norm": grad_norm}
        if not all(value - value == 0 for value in row.values()):
            raise RatchetError(f"training diverged at step {self.position.step}: {row}; lower learning_rate or max_grad_norm")
        self.curve.append(row)
        if self.done % self.save_every == 0 or asked():
            extra = {"work": self.work, "done": self.done, "curve": self.curve}
            weights = dict(trained(self.model))
            state = TrainingState(position=self.position, optimizer=moments(self.model, self.optimizer), weights=weights, extra=extra)
            save_checkpoint(state, self.folder, self.done)
            safe_point()


def begun(trainer: Any, model: Any, *, policy: Path, rows: str, scratch: Path, seed: int, rates: Mapping[str, float] | None = None) -> Session:
    """A session of a trainer with an optimizer and a schedule of the stage's own, at its newest checkpoint if it has one.

    `rows` is the digest of what is read; the trainer says `learning_rate`, `weight_decay`, `batch_size` and `save_every`.
    """
    start = Position(step=0, seed=seed, cursor=0, rows=rows, schedule="own")
    session = Session(
        model=model,
        optimizer=adamw(model, learning_rate=trainer.learning_rate, weight_decay=trainer.weight_decay, rates=rates),
        start=start,
        batch_size=trainer.batch_size,
        save_every=trainer.save_every,
        folder=scratch / "checkpoints",
        work=digest([describe(trainer), asdict(start), weights_digest(policy)]),
    )
    session.restore()
    return session


def take_weights(parameters: Mapping[str, Any], tensors: Mapping[str, Any]) -> bool:
    """Copy stored tensors into parameters, if they are the same by name and shape; else nothing."""
    import torch

    if {name: p.shape for name, p in parameters.items()} != {name: t.shape for name, t in tensors.items()}:
        return False
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return True


def reporter(session: Session) -> Any:
    """The callback through which a `transformers` trainer drives a session."""
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            session.seed_step()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            if "loss" in logs:
                session.record(logs["loss"], logs["learning_rate"], logs["grad_norm"])

    return Reporter()


@contextmanager
def contained() -> Iterator[None]:
    """Leave the generators and the vendors' verbosity as they were found, and let the vendors say nothing meanwhile."""
    import numpy
    import torch
    from transformers import logging

    verbosity, drawn, drawn_numpy = logging.get_verbosity(), random.getstate(), numpy.random.get_state()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the vendors' own deprecations among themselves
            with torch.random.fork_rng():
                yield
    finally:
        random.setstate(drawn)
        numpy.random.set_state(drawn_numpy)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
