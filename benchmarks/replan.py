"""What it takes to find out that nothing is to be done: `ratchet plan` and `ratchet run` again on 1,000 finished stages.

    python -m benchmarks.replan [--rounds 50] [--length 20] [--kib 64] [--repeats 3] [--under FOLDER]

A plan reads every stage's manifest and the sizes of its files; `--verify` reads their bytes. Python's and the config's start is in the
seconds of a command; to see what the stages add, the same command is timed on a run of no rounds. Beside them stands the plain way to
do as much: `stat` of every file, and sha256 of every file. Everything is in the page cache, since it has just been written.
"""

import argparse
import hashlib
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import CHAIN, disk, machine, ratchet, timed
from ratchet.infra.ledger import Ledger


def stat_all(objects: Path) -> int:
    """Bytes of all files, by their sizes."""
    return sum(file.stat().st_size for file in objects.rglob("*") if file.is_file())


def read_all(objects: Path) -> int:
    """Bytes of all files, each read and hashed."""
    total = 0
    for file in objects.rglob("*"):
        if file.is_file():
            with file.open("rb") as lines:
                hashlib.file_digest(lines, "sha256")
            total += file.stat().st_size
    return total


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 50), ("length", 20), ("kib", 64), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--under", type=Path, help="a folder on the disk to measure (default: the temporary folder)")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Measure and print; returns the seconds that the finished stages add to each command, and those of the plain ways."""
    given = options(words)
    with disk(given.under) as folder:
        run = (*CHAIN, "--name", "chain", f"task.kib={given.kib}", f"selection.length={given.length}")
        full, none = folder / "full", folder / "none"
        print(f"{machine()}; {given.rounds} rounds of {given.length} stages, {given.kib} KiB each, median of {given.repeats}")
        making, _ = timed(lambda: ratchet("run", *run, f"rounds={given.rounds}", "--no-prefect", root=full))
        ratchet("run", *run, "rounds=0", "--no-prefect", root=none)
        stages = sum(event["kind"] == "stage" for event in Ledger(full / "chain" / "ledger"))
        objects = full / ".ratchet" / "objects"
        mib = stat_all(objects) / 2**20
        print(f"{stages} stages asked and {mib:.1f} MiB published, in {making:.1f} s")

        def command(verb: str, *more: str) -> Callable[[], float]:
            """Seconds that the stages add to a command, and of the command."""

            def once() -> tuple[float, float]:
                whole, out = timed(lambda: ratchet(verb, *run, f"rounds={given.rounds}", *more, root=full))
                assert verb == "run" or " 0 to run" in out, f"something is not finished:\n{out[-500:]}"
                start, _ = timed(lambda: ratchet(verb, *run, "rounds=0", *more, root=none))
                return whole - start, whole

            return once

        ways = {
            "ratchet plan": command("plan"),
            "stat of every file": lambda: (timed(lambda: stat_all(objects))[0],) * 2,
            "ratchet plan --verify": command("plan", "--verify"),
            "sha256 of every file": lambda: (timed(lambda: read_all(objects))[0],) * 2,
            "ratchet run, again": command("run", "--no-prefect"),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(given.repeats):
            for name, way in ways.items():
                times[name].append(way())
        added = {name: statistics.median(seconds for seconds, _ in found) for name, found in times.items()}
        print(f"{'':24}{'ms, of the stages':>18}{'ms a stage':>12}{'MiB/s':>8}{'command, s':>12}{'x stat':>8}")
        for name, seconds in added.items():
            whole = statistics.median(whole for _, whole in times[name])
            speed = f"{mib / seconds:8.0f}" if "verify" in name or "sha256" in name else f"{'':8}"
            print(f"{name:24}{1000 * seconds:18.0f}{1000 * seconds / stages:12.2f}{speed}{whole:12.2f}{seconds / added['stat of every file']:8.1f}")
        again = statistics.median(whole for _, whole in times["ratchet run, again"])
        print(f"the command that made them took {making / again:.0f} times as long as the one that finds them made")
    return added


if __name__ == "__main__":
    main()
