"""What a stage costs that does nothing: 20 in a row, by ratchet and by others, in one run.

    python -m benchmarks.stages [--length 20] [--repeats 3] [--under FOLDER] [--without metaflow snakemake]

Every step of every tool writes the time into a file while it does its nothing, and hands on what it was given. The time between two
lines is the price of a step; starting the command is not in it, and stands beside. The tools take turns, so that what else the
machine does meets all of them.

Metaflow and Snakemake are installed by pip into a virtual environment of their own in a temporary folder (`--others FOLDER` keeps it),
and are left out, with the reason, where that fails.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chain import STAMPS
from benchmarks.common import CHAIN, disk, environment, machine, ratchet, succeed, timed

PINS = {"metaflow": "2.19.39", "snakemake": "9.27.1"}
MEMORY = Path("/dev/shm")

STAMP = f"open(__import__('os').environ['{STAMPS}'], 'a').write(f'{{__import__(\"time\").time()}}\\n')"
"""`chain.stamp` as one line of Python, for those who do not import us."""


@dataclass(frozen=True)
class Tool:
    """A way to run steps in a row."""

    name: str
    run: Callable[[Path, int, Path], object]
    """In an empty folder, so many steps, with the file that the steps write the time into."""
    commands: list[float] = field(default_factory=list)
    """Seconds of whole commands."""
    steps: list[float] = field(default_factory=list)
    """Seconds a step, of each command."""
    cpu: list[float] = field(default_factory=list)
    """The same of the CPU, where all steps are in one process that says it."""

    def measure(self, under: Path, length: int) -> None:
        """One command, and what a step of it took."""
        with tempfile.TemporaryDirectory(dir=under, ignore_cleanup_errors=True) as name:
            folder, stamps = Path(name) / "work", Path(name) / "stamps"
            folder.mkdir()
            seconds, _ = timed(lambda: self.run(folder, length, stamps))
            lines = [[float(number) for number in line.split()] for line in stamps.read_text().splitlines()]
        assert len(lines) == length, f"{self.name} ran {len(lines)} steps, not {length}"
        self.commands.append(seconds)
        step, *cpu = ((last - first) / (length - 1) for first, last in zip(lines[0], lines[-1], strict=True))
        self.steps.append(step)
        self.cpu.extend(cpu)


def ours(executor: str, *, prefix: Sequence[str] = ()) -> Callable[[Path, int, Path], object]:
    """The chain on one of our executors: launcher, claims, ledger and store as ever, no view but the terminal's."""
    words = (*CHAIN, f"executor={executor}", "--name", "chain", "--no-prefect", *prefix)
    return lambda folder, length, stamps: ratchet("run", *words, f"selection.length={length}", root=folder, **{STAMPS: str(stamps)})


def in_memory(folder: Path, length: int, stamps: Path) -> None:
    """The chain inline where a flush costs nothing: what is left is Python."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as shared:
        ours("inline")(Path(shared), length, stamps)


def submitits(folder: Path, length: int, stamps: Path) -> None:
    """submitit's own local executor, as its README has it: submit, wait for the result, submit the next."""
    chain = f"import submitit\ngiven = 0\nfor _ in range({length}):\n    given = submitit.LocalExecutor('log').submit(step, given).result()\n"
    (folder / "steps.py").write_text(f"def step(given):\n    {STAMP}\n    return given\n")
    succeed(
        [sys.executable, "-c", f"from steps import step\n{chain}"], cwd=folder, env=environment(**{STAMPS: str(stamps), "PYTHONPATH": str(folder)})
    )


def processes(folder: Path, length: int, stamps: Path) -> None:
    """A Python process a step and nothing else: what every tool pays that isolates its steps."""
    for _ in range(length):
        succeed([sys.executable, "-c", STAMP], env=environment(**{STAMPS: str(stamps)}))


def metaflows(python: Path, folder: Path, length: int, stamps: Path) -> None:
    names = ["start", *(f"step{index}" for index in range(1, length - 1)), "end"]
    lines = ["from metaflow import FlowSpec, step", "class Chain(FlowSpec):"]
    for name, after in zip(names, [*names[1:], None], strict=True):
        given = "0" if name == "start" else "self.given"
        lines += ["    @step", f"    def {name}(self):", f"        {STAMP}", f"        self.given = {given}"]
        lines += [f"        self.next(self.{after})"] if after else []
    (folder / "flow.py").write_text("\n".join([*lines, "if __name__ == '__main__':", "    Chain()"]) + "\n")
    env = environment(**{STAMPS: str(stamps), "USERNAME": "bench", "METAFLOW_HOME": str(folder / "home")})
    succeed([str(python), "flow.py", "run"], cwd=folder, env=env)


def snakemakes(python: Path, folder: Path, length: int, stamps: Path) -> None:
    rules = [f"rule all:\n    input: 'step{length}'"]
    for index in range(1, length + 1):
        before = f"    input: 'step{index - 1}'\n" if index > 1 else ""
        make = f"cp step{index - 1} step{index}" if index > 1 else "echo 0 > step1"
        rules.append(f"rule step{index}:\n{before}    output: 'step{index}'\n    shell: '{make}; date +%s.%N >> ${STAMPS}'")
    (folder / "Snakefile").write_text("\n".join(rules) + "\n")
    succeed([str(python), "-m", "snakemake", "--cores", "1", "--quiet"], cwd=folder, env=environment(**{STAMPS: str(stamps)}))


RUNS = {"metaflow": metaflows, "snakemake": snakemakes}


def others(folder: Path, wanted: Sequence[str]) -> list[Tool]:
    """The other tools, installed if they are not yet; those that cannot be are left out, and it is said why."""
    python = folder / "bin" / "python"
    if wanted and not python.exists():
        succeed([sys.executable, "-m", "venv", str(folder)])
    found = []
    for name in wanted:
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{name}=={PINS[name]}"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} is left out: pip install {name}=={PINS[name]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        else:
            found.append(Tool(f"{name} {PINS[name]}", lambda *given, name=name: RUNS[name](python, *given)))
    return found


COUNTING = """
import os, sys
count, real = [0], os.fsync
def fsync(descriptor):
    count[0] += 1
    real(descriptor)
os.fsync = fsync
from ratchet.flows.cli import main
main(sys.argv[1:])
print("flushes", count[0])
"""


def flushes(under: Path) -> float:
    """How many flushes (`fsync`) a stage is, its part of the driver's included."""

    def count(length: int) -> int:
        with tempfile.TemporaryDirectory(dir=under) as root:
            words = ["run", *CHAIN, "--no-prefect", f"selection.length={length}", "--root", root]
            return int(succeed([sys.executable, "-c", COUNTING, *words]).split()[-1])

    return (count(12) - count(2)) / 10


def one_flush(under: Path, times: int = 50) -> float:
    """Seconds that the disk takes for one, right now."""
    seconds = []
    for index in range(times):
        with (under / f"flushed-{index}").open("wb") as file:
            file.write(b"x" * 400)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--under", type=Path, help="a folder on the disk to measure (default: the temporary folder)")
    parser.add_argument("--others", type=Path, help="where the other tools' virtual environment is, or is to be kept")
    parser.add_argument("--without", nargs="*", default=[], choices=[*PINS, "submitit"], help="tools to leave out")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Measure and print; returns the seconds a step by tool."""
    given = options(words)
    with disk(given.under) as folder:
        tools = [Tool("ratchet inline", ours("inline")), Tool("ratchet local", ours("local"))]
        tools += [Tool("ratchet inline, in memory", in_memory)] if os.access(MEMORY, os.W_OK) else []
        tools += [Tool("a Python process, nothing else", processes)]
        tools += [Tool("submitit local", submitits)] if "submitit" not in given.without else []
        tools += others(given.others or folder / "others", [name for name in PINS if name not in given.without])
        print(f"{machine()}; {given.length} steps, median of {given.repeats}")
        for _ in range(given.repeats):
            for tool in tools:
                tool.measure(folder, given.length)
        steps = {tool.name: statistics.median(tool.steps) for tool in tools}
        print(f"{'':32}{'ms a step':>12}{'command, s':>12}{'x inline':>10}{'x local':>10}")
        for tool in tools:
            step = steps[tool.name]
            ratios = f"{step / steps['ratchet inline']:10.2f}{step / steps['ratchet local']:10.2f}"
            print(f"{tool.name:32}{1000 * step:12.1f}{statistics.median(tool.commands):12.2f}{ratios}")
        cpu, flush = statistics.median(tools[0].cpu), one_flush(folder)
        print(f"a stage inline is {1000 * cpu:.1f} ms of CPU and {flushes(folder):.0f} flushes; one takes {1000 * flush:.2f} ms here")
    return steps


if __name__ == "__main__":
    main()
