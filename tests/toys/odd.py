"""Parts that behave badly, each in its own way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import InputError
from ratchet.protocols import Metrics
from ratchet.records import Demonstration, Problem
from tests.toys.parts import Practice


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
