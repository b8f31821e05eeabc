"""Runs as gates see them, drawn at random: many, and in no time. `python -m tests.components.gates.simulated` gives the table of the docs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ratchet.components.gates.evidence import HELD_OUT, Draws, Evidence, Measurement, Probe
from ratchet.components.gates.hypotheses import wilson
from ratchet.components.gates.panel import Panel
from ratchet.flows.build import build
from ratchet.flows.compose import compose

ITEMS, PROBES, PROBLEMS, SAMPLES = 150, 200, 100, 4
IDS = [str(n) for n in range(ITEMS)]
PROBE_IDS = [f"unsupervised/{n}" for n in range(PROBES)]
PROMPTS = {id: f"situation {id}" for id in PROBE_IDS}


@dataclass(frozen=True, kw_only=True)
class World:
    """The truth about a run: shares and means from which items are drawn."""

    right: float = 0.5
    """Of round 0."""
    lost: float = 0.0
    """How far every later policy is below that; negative: above."""
    explored_lost: float = 0.0
    churn: float = 0.1
    """Items that change either way besides."""
    log_ratio: float = 0.0
    false_accepts: float = 0.01
    identical: float = 0.1
    unhealthy: float = 0.002
    breaks: float = 0.03
    breaks_more: float = 0.0


HEALTHY = World(lost=-0.05)
STILL = World()
"""Nothing gets better or worse."""
AT_EVERY_BOUND = World(
    lost=0.02,
    explored_lost=0.1,
    log_ratio=float(np.log(1.5)),
    false_accepts=0.05,
    identical=0.5,
    unhealthy=0.02,
    breaks=0.07,
    breaks_more=0.03,
)
"""The worst that still is healthy: every hypothesis holds only just."""


def panel() -> Panel:
    """The standard gates."""
    built: Panel = build(compose(["gates=standard"])["gates"]["panel"])
    return built


def moved(rng: np.random.Generator, before: Any, lost: float, churn: float) -> Any:
    """0 or 1 an item, of a policy that is worse by `lost` in the mean, on the same items."""
    share = float(np.clip(before.mean(), 0.05, 0.95))
    down, up = (churn / 2 + max(lost, 0)) / share, (churn / 2 + max(-lost, 0)) / (1 - share)
    return np.where(before == 1, rng.random(before.size) >= down, rng.random(before.size) < up).astype(int)


def rounds_of(rng: np.random.Generator, world: World, rounds: int) -> Iterator[Evidence]:
    """What the gates of one run get to see, round by round, as long as all are promoted."""
    right = (rng.random(ITEMS) < world.right).astype(int)
    explored = (rng.random(ITEMS) < 0.6).astype(int)
    breaks = (rng.random(PROBES) < world.breaks).astype(int)
    tokens = np.maximum(rng.lognormal(4, 0.3, ITEMS), 5)
    start = champion = measured(rng, world, right, explored, tokens, 0.0)
    start_probe = probe_of(breaks)
    past = [start_probe]
    for look in range(1, rounds + 1):
        candidate = measured(
            rng,
            world,
            moved(rng, right, world.lost, world.churn),
            moved(rng, explored, world.explored_lost, world.churn),
            tokens,
            world.log_ratio,
        )
        probe = probe_of(moved(rng, breaks, -world.breaks_more, world.churn / 5))
        yield Evidence(
            look=look,
            candidate={HELD_OUT: candidate},
            champion={HELD_OUT: champion},
            start={HELD_OUT: start},
            draws=draws(rng, world),
            probe=probe,
            start_probe=start_probe,
            past_probes=tuple(past),
        )
        champion = candidate
        past.append(probe)


def measured(rng: np.random.Generator, world: World, right: Any, explored: Any, tokens: Any, log_ratio: float) -> Measurement:
    accepted = np.where(right == 1, 1, rng.random(ITEMS) < world.false_accepts / (1 - right.mean()))
    lengths = tokens * np.exp(log_ratio + rng.normal(0, 0.2, ITEMS)) if log_ratio else tokens * np.exp(rng.normal(0, 0.2, ITEMS))
    return Measurement(
        ids=IDS,
        correct=accepted.astype(float).tolist(),
        reward=(accepted + rng.normal(0, 0.1, ITEMS)).tolist(),
        tokens=lengths.tolist(),
        labelled=right.astype(float).tolist(),
        solutions=(2 * explored).tolist(),
        samples=SAMPLES,
    )


def draws(rng: np.random.Generator, world: World) -> list[Draws]:
    same = rng.random(PROBLEMS) < world.identical
    late = rng.binomial(SAMPLES, world.unhealthy, PROBLEMS)
    return [Draws(samples=SAMPLES, distinct=1 if s else SAMPLES, correct=1, unhealthy=int(n)) for s, n in zip(same, late, strict=True)]


def probe_of(breaks: Any) -> Probe:
    return Probe(outcomes={id: "wrong" if broken else "correct" for id, broken in zip(PROBE_IDS, breaks, strict=True)}, prompts=PROMPTS)


def held_up(world: World, *, runs: int, rounds: int, seed: int = 0, family_wise: float = 0.05) -> int:
    """How many of so many runs had any round held up."""
    judge = replace(panel(), family_wise=family_wise)
    count = 0
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        count += any(not judge.decide(evidence).promoted for evidence in rounds_of(rng, world, rounds))
    return count


if __name__ == "__main__":
    for name, world in (("healthy", HEALTHY), ("still", STILL), ("at every bound", AT_EVERY_BOUND)):
        found = held_up(world, runs=2000, rounds=8)
        low, high = wilson(found, 2000)
        print(f"{name}: {found} of 2000 runs of 8 rounds, {100 * found / 2000:.2f} % [{100 * low:.2f}, {100 * high:.2f}]")
