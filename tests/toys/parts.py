"""A policy that is one number, so that every recipe runs for real, stage by stage, in a second and without torch.

What is slow for real keeps what it did in its scratch folder here too: an attempt goes on where the one before was cut off. With
`RATCHET_TEST_DRAWS` naming a file, every completion drawn and every step taken is a line in it, so that repeated work can be counted.
With `RATCHET_TEST_HASTE` set, nothing takes the `seconds` that its config says.
"""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ratchet.interruption import safe_point
from ratchet.protocols import Decision, Metrics, Report
from ratchet.records import Demonstration, Problem, Rollout


def crash_point(where: str) -> None:
    """Die here, once, if `RATCHET_TEST_DIE` names this place (`place` or `place:marker-file`)."""
    wanted, _, marker = os.environ.get("RATCHET_TEST_DIE", "").partition("@")
    if wanted != where or not marker:
        return
    with suppress(FileExistsError):  # of two shards that come here at once, one dies
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), 9)


def spend(seconds: float) -> None:
    """Be slow, as a real policy would."""
    if "RATCHET_TEST_HASTE" not in os.environ:
        time.sleep(seconds)


def feast() -> None:
    """Eat 900 MB and wait for whoever kills for that, once, if there is the file that `RATCHET_TEST_FEAST` names."""
    with suppress(KeyError, FileNotFoundError):
        Path(os.environ["RATCHET_TEST_FEAST"]).unlink()  # of two jobs that come here at once, one eats
        eaten = b"." * 900_000_000
        time.sleep(20)
        del eaten


def count(unit: str, piece: str) -> None:
    """Add a line for a piece of work that is done now. The clock is the kernel's: it is the same for all processes and never set."""
    if path := os.environ.get("RATCHET_TEST_DRAWS"):
        line = {"unit": unit, "piece": piece, "at": time.monotonic(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
        with Path(path).open("ab", buffering=0) as lines:
            lines.write(json.dumps(line).encode() + b"\n")


def kept(path: Path) -> Any:
    """What an attempt before this one left in its scratch folder, or None."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def keep(path: Path, value: object) -> None:
    """Leave something for the attempt after this one, and stop here if that was asked."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(value))
    draft.replace(path)
    safe_point()


@dataclass(frozen=True, kw_only=True)
class Sums:
    """`3+4=` and its answer."""

    split: str = "train"
    size: int = 12

    def propose(self) -> Iterator[Problem]:
        for n in range(self.size):
            a, b = (n * 7 + len(self.split)) % 10, n % 10
            yield Problem(id=f"{self.split}-{n}", prompt=f"{self.split} {n}: {a}+{b}=", reference=str(a + b), solution=f"#{a + b}")


@dataclass(frozen=True, kw_only=True)
class Coin:
    """A policy with a skill: the share of problems that it gets right."""

    skill: float = 0.2

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        (out / "policy.json").write_text(json.dumps({"skill": self.skill, "steps": 0}))
        return {"skill": self.skill}


@dataclass(frozen=True, kw_only=True)
class Toss:
    samples: int = 4
    temperature: float = 1.0
    rows_per_shard: int | None = 5
    seconds: float = 0.0

    @property
    def seeded(self) -> bool:
        return self.temperature > 0

    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        known = json.loads((policy / "policy.json").read_text())
        skill, unit = known["skill"], f"synthesize {seed} {known} {self.temperature} {problems[0].id}"
        for row, problem in enumerate(problems):
            drawn = kept(scratch / f"drawn-{row}.json")
            if drawn is None:
                drawn = [self._draw(problem, sample, skill, seed, unit) for sample in range(self.samples)]
                keep(scratch / f"drawn-{row}.json", drawn)
            for sample, text in enumerate(drawn):
                yield Rollout(problem_id=problem.id, sample=sample, prompt=problem.prompt, completion=text, reference=problem.reference, tokens=3)

    def _draw(self, problem: Problem, sample: int, skill: float, seed: int, unit: str) -> str:
        feast()
        spend(self.seconds)
        crash_point("synthesize")
        count(unit, f"{problem.id}/{sample}")
        rng = random.Random(f"{seed}/{problem.id}/{sample}/{self.temperature}")
        right = rng.random() < skill + (0.3 if problem.shown else 0.0)
        return f"#{problem.reference}" if right else f"#{rng.randrange(90, 99)}"


@dataclass(frozen=True, kw_only=True)
class Judge:
    version = 1
    rows_per_shard: int | None = 30

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for r in rollouts:
            crash_point("verify")
            right = r.completion == f"#{r.reference}"
            yield replace(r, answer=r.completion[1:], outcome="correct" if right else "wrong", reward=float(right))


@dataclass(frozen=True, kw_only=True)
class Keep:
    threshold: float = 0.5

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Demonstration]:
        for r in rollouts:
            if (r.reward or 0.0) > self.threshold:
                yield Demonstration(prompt=r.prompt, completion=r.completion, problem_id=r.problem_id)


@dataclass(frozen=True, kw_only=True)
class Unsolved:
    """Problems nobody solved, with a hint."""

    def select(self, rollouts: Sequence[Rollout]) -> Iterator[Problem]:
        solved = {r.problem_id for r in rollouts if r.outcome == "correct"}
        seen = set()
        for r in rollouts:
            if r.problem_id not in solved | seen:
                seen.add(r.problem_id)
                yield Problem(id=r.problem_id, prompt=r.prompt, reference=r.reference, shown=f"[{r.reference}]{r.prompt}")


@dataclass(frozen=True, kw_only=True)
class Practice:
    """Each example raises the skill a little; `training_state` goes on counting steps. Takes `seconds`, in as many checkpoints as `STEPS`."""

    STEPS: ClassVar[int] = 5

    gain: float = 0.01
    inherit: str = "weights"
    seconds: float = 0.0

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        crash_point("train")
        old = json.loads((policy / "policy.json").read_text())
        for step in range(kept(scratch / "steps.json") or 0, self.STEPS if self.seconds else 0):
            spend(self.seconds / self.STEPS)
            count(f"{self} {seed} {old} {len(examples)}", str(step))
            keep(scratch / "steps.json", step + 1)
        skill = min(0.95, old["skill"] + self.gain * len(examples))
        steps = (old["steps"] if self.inherit == "training_state" else 0) + len(examples)
        (out / "policy.json").write_text(json.dumps({"skill": skill, "steps": steps}))
        return {"skill": skill, "steps": steps}


@dataclass(frozen=True, kw_only=True)
class Exam:
    samples: int = 4
    temperature: float = 1.0

    def evaluate(self, greedy: Sequence[Rollout], sampled: Sequence[Rollout]) -> Report:
        rate = sum(r.outcome == "correct" for r in greedy) / len(greedy)
        items: list[dict[str, Any]] = [{"problem_id": r.problem_id, "correct": r.outcome == "correct"} for r in greedy]
        metrics = {"pass_at_1": rate, "pass_at_1.low": max(0.0, rate - 0.1), "pass_at_1.high": min(1.0, rate + 0.1)}
        return Report(metrics=metrics | {"pass_at_4": min(1.0, 2 * rate), "distinct_equations": 0.5}, items=items)


@dataclass(frozen=True, kw_only=True)
class Thermostat:
    """Takes the temperature whose cell has most correct rollouts; the lowest of equals."""

    temperatures: tuple[float, ...] = (0.5, 1.0)

    @property
    def grid(self) -> dict[str, tuple[float, ...]]:
        return {"temperature": self.temperatures}

    def adjust(self, cells: Mapping[str, Sequence[Rollout]], problems: Sequence[Problem]) -> Decision:
        crash_point("adjust")
        rows = [{"temperature": float(key), "correct": sum(r.outcome == "correct" for r in found)} for key, found in cells.items()]
        best = max(rows, key=lambda row: (row["correct"], -row["temperature"]))
        return Decision(
            knobs={"temperature": best["temperature"], "threshold": 0.5}, metrics={"balance": best["correct"] / 100, "n_star": 1}, cells=rows
        )
