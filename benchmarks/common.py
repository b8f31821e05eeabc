"""What the benchmarks of the machinery share: `ratchet` as a command, a folder on a real disk, the machine in one line."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ratchet.infra.views import filesystem_of

HOUSE = Path(__file__).resolve().parents[1]
CHAIN = ("--config-dir", str(HOUSE / "benchmarks/configs"), "experiment=chain")

Made = TypeVar("Made")


def environment(**more: str) -> dict[str, str]:
    """A command's environment: jobs find the benchmarks' parts, and nothing of the user's points them elsewhere."""
    path = os.pathsep.join(dict.fromkeys([str(HOUSE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))
    kept = {name: value for name, value in os.environ.items() if name not in ("RATCHET_ROOT", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")}
    return {**kept, "PYTHONPATH": path, **more}


def succeed(command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env or environment(), stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def ratchet(verb: str, *words: str, root: Path, **env: str) -> str:
    """A command of ours, in a process of its own as a user starts it."""
    return succeed([sys.executable, "-m", "ratchet.flows.cli", verb, *words, "--root", str(root)], env=environment(**env))


@contextmanager
def disk(under: Path | None) -> Iterator[Path]:
    """A folder of its own, removed at the end; on a disk, since in memory a flush costs nothing."""
    with tempfile.TemporaryDirectory(prefix="ratchet-bench-", dir=under, ignore_cleanup_errors=True) as folder:
        if filesystem_of(Path(folder)) in ("tmpfs", "ramfs"):
            sys.exit(f"{folder} is in memory, where a flush costs nothing\n  next: give a folder on a disk by --under")
        yield Path(folder)


def timed(work: Callable[[], Made]) -> tuple[float, Made]:
    """Seconds, and what the work returns."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def machine() -> str:
    """The machine, and how busy it is with other things."""
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
