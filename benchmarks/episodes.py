"""Episodes per second of the navigation agent in its environment: many side by side, and one at a time, in one run.

    python -m benchmarks.episodes [--environment babyai | vln_graph --houses FOLDER] [--episodes 192] [--sizes 1 8 64]

The agent has random weights of the default size and samples its way at temperature 1 for at most 15 decisions, drawing
the same numbers whatever the batch. One thread.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from ratchet.records import Problem


def world(name: str, houses: Path | None, episodes: int) -> tuple[Any, list[Problem]]:
    """An environment and problems in it."""
    if name == "babyai":
        from ratchet.components.environments.babyai import Grids
        from ratchet.components.tasks.babyai import BabyAI

        environment: Any = Grids()
        return environment, list(BabyAI(split="train", worked=1, train=episodes, dev=1, test=1).propose())
    from ratchet.components.environments.vln_graph import VLNGraph
    from ratchet.components.tasks.navigation import GoalPairs

    assert houses is not None, "--houses FOLDER with graphs.jsonl.gz and objects.jsonl.gz"
    environment = VLNGraph(graphs=houses / "graphs.jsonl.gz", objects=houses / "objects.jsonl.gz")
    problems = list(GoalPairs(environment=environment, split="train", worked_share=0.0).propose())
    return environment, problems[:: max(1, len(problems) // episodes)][:episodes]


def main(arguments: Sequence[str] | None = None) -> dict[int, float]:
    """Episodes per second by batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", choices=("babyai", "vln_graph"), default="babyai")
    parser.add_argument("--houses", type=Path)
    parser.add_argument("--episodes", type=int, default=192)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)

    import torch

    from ratchet.components.policies.graph_agent import load
    from ratchet.components.policies.navigator import Navigator
    from ratchet.components.synthesis.explorer import explore

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    environment, problems = world(given.environment, given.houses, given.episodes)
    with tempfile.TemporaryDirectory() as folder:
        Navigator(environment=environment).create(problems, out=Path(folder), scratch=Path(folder), seed=0)
        agent, reader = load(Path(folder))
    views: list[Any] = []
    seeds = list(range(len(problems)))

    def walk(size: int, watch: Any = lambda *_: None) -> float:
        began = time.perf_counter()
        for first in range(0, len(problems), size):
            some = slice(first, first + size)
            explore(agent.eval(), reader, environment, problems[some], seeds[some], temperature=1.0, decisions=15, watch=watch)
        return time.perf_counter() - began

    walk(64, lambda exploration, moment, actions: views.append(moment))  # levels are made and scans read once, before the clock
    best = {size: min(walk(size) for _ in range(given.repeats)) for size in given.sizes}
    torch.set_num_threads(threads)
    print(f"{machine()}; {given.environment}, {len(problems)} episodes of {len(views) / len(problems):.1f} decisions, best of {given.repeats}")
    print(f"{'side by side':>14} {'episodes/s':>12} {'decisions/s':>12} {'x one at a time':>16}")
    for size, seconds in best.items():
        print(f"{size:>14} {len(problems) / seconds:>12.0f} {len(views) / seconds:>12.0f} {best[given.sizes[0]] / seconds:>16.1f}")
    return {size: len(problems) / seconds for size, seconds in best.items()}


if __name__ == "__main__":
    main()
