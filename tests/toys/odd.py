"""Parts that behave badly, each in its own way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import InputError
from ratchet.protocols import Metrics
from ratchet.records import Demonstration, Problem, Rollout
from tests.toys.parts import Judge, Practice


@dataclass(frozen=True, kw_only=True)
class Breaks(Practice):
    """Leaves a checkpoint, says what it does, and breaks."""

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        (scratch / "checkpoint").write_text("half")
        print(f"training on {len(examples)} examples")
        raise ValueError("not today")


@dataclass(frozen=True, kw_only=True)
class Continues(Practice):
    """Tells whether it found a checkpoint."""

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        (out / "policy.json").write_text("{}")
        return {"continued": float((scratch / "checkpoint").exists())}


@dataclass(frozen=True, kw_only=True)
class Raises:
    """A task whose problems cannot be had, for the reason given."""

    error: str

    def propose(self) -> Iterator[Problem]:
        errors = {
            "input": InputError("no such colour"),
            "memory": MemoryError("256 GiB"),
            "disk": OSError(28, "No space left on device"),
            "bug": KeyError("x"),
        }
        yield Problem(id="1", prompt="1")
        raise errors[self.error]


@dataclass(frozen=True, kw_only=True)
class ByTheBook(Judge):
    """Reads a file before it judges what is trained on."""

    file: str

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        if any(rollout.problem_id.startswith("train") for rollout in rollouts):
            Path(self.file).read_text()
        yield from super().verify(rollouts, roles=roles)
