"""Seconds for B-STaR's full grid search, against one cell done the plain way, on the same rollouts in the same process.

    python benchmarks/balance_grid.py [--temperatures 15] [--step 0.01] [--problems 600] [--samples 64] [--grow]

The plain way is the definition word by word: dictionaries of lists, one cell at a time, each from the scored rollouts. It is timed on
a few cells spread over the grid, and multiplied by the number of cells. Where it disagrees with ours on one of them, this fails.
"""

import argparse
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from ratchet.components.control.balance import Balance, balance_grid
from ratchet.components.self_training.selection import by_problem
from ratchet.identity import decimal_key
from ratchet.records import Problem, Rollout

N_STAR = 6

Scored = dict[str, list[tuple[str, float, bool]]]
"""problem → (text, reward, correct) of each sample."""


def rollouts(temperature: float, problems: int, samples: int, seed: int) -> list[Rollout]:
    """Verified rollouts of made-up problems, harder and easier, with more different texts at a higher temperature."""
    draw = random.Random(f"{seed} {temperature}")
    made = []
    for problem in range(problems):
        ease, texts = draw.random(), round(4 + 12 * temperature)
        for sample in range(samples):
            text = draw.randrange(texts)
            correct = (text * 0.618 + ease) % 1 < ease  # equal texts are equally right, and rewarded alike
            reward = correct + 2 * ((text * 0.414 + problem * 0.732) % 1) - 1
            made.append(
                Rollout(
                    problem_id=f"p{problem}",
                    sample=sample,
                    prompt="",
                    completion=f"t{text}",
                    outcome="correct" if correct else "wrong",
                    reward=reward,
                )
            )
    return made


def scored_of(cell: Sequence[Rollout]) -> Scored:
    """What the plain way starts from."""
    scored: Scored = {}
    for made in cell:
        scored.setdefault(made.problem_id, []).append((made.completion, made.reward or 0.0, made.outcome == "correct"))
    return scored


def plain_cell(scored: Scored, threshold: float, target: int | None) -> float:
    """The balance score of one cell."""
    selected: Scored = {}
    for problem, candidates in scored.items():
        passing = [candidate for candidate in candidates if candidate[1] > threshold]
        passing.sort(key=lambda candidate: candidate[1], reverse=True)
        distinct: dict[str, tuple[str, float, bool]] = {}
        for candidate in passing:
            distinct.setdefault(candidate[0], candidate)
        selected[problem] = list(distinct.values())
    if target is not None:
        cap, kept = 0, -1
        while kept < target:
            cap, before = cap + 1, kept
            kept = sum(len(candidates[:cap]) for candidates in selected.values())
            if kept == before:
                break
        selected = {problem: candidates[:cap] for problem, candidates in selected.items()}
    total = 0.0
    for candidates in selected.values():
        correct = len({text for text, _, right in candidates if right})
        if candidates:
            total += min(correct / N_STAR, 1.0) * correct / len(candidates)
    return total / len(selected)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("temperatures", 15), ("problems", 600), ("samples", 64), ("repeats", 3), ("cells", 15), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--step", type=float, default=0.01, help="of the thresholds from -1 to 1")
    parser.add_argument("--grow", action="store_true", help="let the cap per problem grow to the probed problems' share of the samples wanted")
    return parser.parse_args()


def main() -> None:
    given = options()
    temperatures = tuple(round(0.5 + 0.05 * index, 2) for index in range(given.temperatures))
    wanted = N_STAR * given.problems
    balance = Balance(samples_wanted=wanted, temperatures=temperatures, threshold_step=given.step, grow=given.grow)
    problems = [Problem(id=f"p{index}", prompt="") for index in range(given.problems)]
    cells = {decimal_key(t): rollouts(t, given.problems, given.samples, given.seed) for t in temperatures}
    target = wanted if given.grow else None

    whole = [timed(lambda: balance.adjust(cells, problems)) for _ in range(given.repeats)]
    ranked = [balance.ranked(by_problem(cell).values()) for cell in cells.values()]
    grids = [
        timed(lambda: [list(balance_grid(*scores, balance.thresholds, n_star=N_STAR, target=target)) for scores in ranked])
        for _ in range(given.repeats)
    ]
    decision = whole[0][1]
    scored = {key: scored_of(cell) for key, cell in cells.items()}
    count = len(decision.cells)
    rows = [decision.cells[index * (count - 1) // max(given.cells - 1, 1)] for index in range(given.cells)]
    plain = [timed(lambda row=row: plain_cell(scored[decimal_key(row["temperature"])], row["threshold"], target)) for row in rows]
    for row, (_, score) in zip(rows, plain, strict=True):
        assert abs(row["balance"] - score) < 1e-9, f"{row} is {score} by the definition"

    ours, grid_only, one = (statistics.median(seconds for seconds, _ in runs) for runs in (whole, grids, plain))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, grow={given.grow}")
    print(f"{len(temperatures)} temperatures x {len(balance.thresholds)} thresholds = {count:,} cells")
    print(f"{given.problems} problems x {given.samples} samples a temperature")
    print(f"ours, all cells, from rollouts (check, dedup, rank)  {ours:8.2f} s")
    print(f"ours, all cells, from ranked scores                  {grid_only:8.2f} s")
    print(f"plain, one cell, median of {given.cells:<3}                       {1000 * one:8.2f} ms")
    print(f"plain, all cells, extrapolated                       {one * count:8.2f} s")
    print(f"plain / ours                                         {one * count / ours:8.0f} from rollouts, {one * count / grid_only:.0f} from scores")
    print(f"equal on those {given.cells} cells; chosen {dict(decision.knobs)}, balance {decision.metrics['balance']:.3f}")


if __name__ == "__main__":
    main()
