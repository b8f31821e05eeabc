"""A policy that is one number, so that every recipe runs for real, stage by stage, in a second and without torch."""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
        skill = json.loads((policy / "policy.json").read_text())["skill"]
        for problem in problems:
            for sample in range(self.samples):
                time.sleep(self.seconds)
                crash_point("synthesize")
                rng = random.Random(f"{seed}/{problem.id}/{sample}/{self.temperature}")
                right = rng.random() < skill + (0.3 if problem.shown else 0.0)
                text = f"#{problem.reference}" if right else f"#{rng.randrange(90, 99)}"
                yield Rollout(problem_id=problem.id, sample=sample, prompt=problem.prompt, completion=text, reference=problem.reference, tokens=3)


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
    """Each example raises the skill a little; `training_state` goes on counting steps."""

    gain: float = 0.01
    inherit: str = "weights"
    seconds: float = 0.0

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        crash_point("train")
        time.sleep(self.seconds)
        old = json.loads((policy / "policy.json").read_text())
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
