"""Toy parts that go wrong in a chosen way, for the gates to catch: each looks like the healthy one until the round it breaks in."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ratchet.protocols import Metrics
from ratchet.records import Demonstration, Problem, Rollout


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Problems of ten words, so that n-grams are theirs; `leak` of the training problems are test problems, word for word or nearly."""

    split: str = "train"
    size: int = 60
    leak: int = 0
    nearly: bool = False

    def propose(self) -> Iterator[Problem]:
        for n in range(self.size):
            yield self._problem(self.split, n, self._leaked(n) if self.split == "train" and n < self.leak else _text(self.split, n))

    def _leaked(self, n: int) -> str:
        return "so " + _text("test", n).replace(" please", "") if self.nearly else _text("test", n)

    def _problem(self, split: str, n: int, text: str) -> Problem:
        return Problem(id=f"{split}-{n}", prompt=text, reference=str(n % 10), solution=f"#{n % 10}")


def _text(split: str, n: int) -> str:
    rng = random.Random(f"{split}/{n}")
    return " ".join(f"w{rng.randrange(10_000)}" for _ in range(12)) + " please"


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A policy: how often it is right, how often it breaks the rule, and how varied it is."""

    skill: float = 0.5

    def create(self, examples: Sequence[Problem], *, out: Path, scratch: Path, seed: int) -> Metrics:
        (out / "policy.json").write_text(json.dumps({"skill": self.skill, "breaks": 0.0, "round": 0}))
        return {"skill": self.skill}


@dataclass(frozen=True, kw_only=True)
class Draw:
    samples: int = 4
    temperature: float = 1.0

    @property
    def seeded(self) -> bool:
        return self.temperature > 0

    def synthesize(self, policy: Path, problems: Sequence[Problem], *, seed: int, scratch: Path) -> Iterator[Rollout]:
        state = json.loads((policy / "policy.json").read_text())
        for problem in problems:
            for sample in range(self.samples):
                # As a sampler does: near temperature 0 every draw is the likeliest text.
                rng = random.Random(f"{problem.id}/{sample if self.temperature > 0.01 else 0}/{seed if self.temperature > 0.01 else 0}")
                yield Rollout(
                    problem_id=problem.id,
                    sample=sample,
                    prompt=problem.prompt,
                    completion=self._text(state, problem, rng),
                    reference=problem.reference,
                    tokens=5,
                )

    def _text(self, state: Mapping[str, float], problem: Problem, rng: random.Random) -> str:
        lucky = rng.random()
        way = rng.randrange(1000)
        if problem.reference and problem.reference.startswith("{"):
            sides = json.loads(problem.reference)
            return f"#{sides['broken' if lucky < state['breaks'] else 'kept'][0]}"
        right = lucky < state["skill"]
        return f"way {way} #{problem.reference if right else rng.randrange(10, 99)}"


@dataclass(frozen=True, kw_only=True)
class Teach:
    """Trains by `gain` a round, and from round `breaks_in` on goes wrong: skill `falls`, or the rule is broken as often as `breaks`."""

    gain: float = 0.03
    falls: float = 0.0
    breaks: float = 0.0
    breaks_in: int = 2
    inherit: str = "weights"

    def train(self, policy: Path, examples: Sequence[Demonstration], *, out: Path, scratch: Path, seed: int) -> Metrics:
        old = json.loads((policy / "policy.json").read_text())
        round = old["round"] + 1
        broken = round >= self.breaks_in
        skill = min(0.95, max(0.0, old["skill"] + self.gain - (self.falls if broken else 0.0)))
        breaks = self.breaks if broken else old["breaks"]
        (out / "policy.json").write_text(json.dumps({"skill": skill, "breaks": breaks, "round": round}))
        return {"skill": skill}


@dataclass(frozen=True, kw_only=True)
class Grader:
    """Right if the answer is; `lenient`: that share of the wrong answers is accepted too, and pays more. `slow`: that share times out."""

    lenient: float = 0.0
    slow: float = 0.0

    def verify(self, rollouts: Sequence[Rollout], *, roles: Mapping[str, Path]) -> Iterator[Rollout]:
        for r in rollouts:
            answer = r.completion.partition("#")[2]
            luck = random.Random(f"{r.problem_id}/{r.sample}/{r.completion}").random()
            right = answer == r.reference or luck < self.lenient
            if luck > 1 - self.slow:
                yield replace(r, outcome="timeout", reward=0.0)
            else:
                yield replace(r, answer=answer, outcome="correct" if right else "wrong", reward=float(right))


@dataclass(frozen=True, kw_only=True)
class Situations:
    split: str = "probe"
    size: int = 200

    def propose(self) -> Iterator[Problem]:
        for n in range(self.size):
            arm = "unsupervised" if n % 2 else "supervised"
            answers = json.dumps({"kept": ["A"], "broken": ["B"]})
            yield Problem(id=f"{arm}/{n}", prompt=f"situation {n}", reference=answers)
