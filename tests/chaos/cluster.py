"""A Slurm of the chaos' own, and the disk that its nodes share."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.toys.drive import HOUSE, wait_until

SCRIPT = HOUSE / "infra/slurm/cluster.sh"
OPTIONS = ("--nodes", "2", "--memory", "4096", "--min-job-age", "5", "--requeue-delay", "5", "--node-timeout", "10")
"""Seconds where a site has minutes; a job of one CPU gets 512 MB."""
DISK_MB = 64
PREFIX = "ratchet-"
"""How the jobs of runs are called."""


@dataclass(frozen=True)
class Cluster:
    """Two nodes, accounting, and a disk that can be filled."""

    state: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.state / "slurm.conf")}

    @property
    def disk(self) -> Path:
        return self.state / "disk"

    def up(self) -> None:
        self("up", *OPTIONS)
        self.disk.mkdir(exist_ok=True)
        if not self.disk.is_mount():
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "ratchet-chaos", str(self.disk)], check=True)

    def down(self) -> None:
        self("down")
        if self.disk.is_mount():
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)

    def __call__(self, verb: str, *words: str) -> None:
        """`cluster.sh VERB …`"""
        done = subprocess.run([SCRIPT, verb, "--state", self.state, *words], capture_output=True, text=True, check=False)
        assert 0 == done.returncode, f"cluster.sh {verb}: {done.stdout}{done.stderr}"

    def says(self, *command: str, must: bool = True) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **self.env})
        assert not must or 0 == done.returncode, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def queue(self) -> list[str]:
        """The runs' jobs that are not over, as `ID NAME STATE`."""
        return [line for line in self.says("squeue", "-h", "-r", "-o", "%i %j %T").splitlines() if line.split()[1].startswith(PREFIX)]

    def heal(self) -> None:
        """What the last schedule left: no jobs, all daemons and nodes well."""
        with suppress(AssertionError):
            self.says("scancel", "--me")
            for node in ("node1", "node2"):
                self.says("scontrol", "update", f"NodeName={node}", "State=RESUME", must=False)
            wait_until(lambda: not self.says("squeue", "-h"), "an empty queue", 30)
            self("status")
            return
        self.down()
        self.up()

    @contextmanager
    def frozen(self, daemon: str) -> Iterator[None]:
        """A daemon that hangs."""
        pid = int((self.state / "run" / f"{daemon}.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def full(self) -> Iterator[None]:
        """A disk without a byte left."""
        ballast = self.disk / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"." * 65536)
            with suppress(OSError), ballast.open("ab", buffering=0) as file:
                while True:
                    file.write(b".")
            yield
        finally:
            ballast.unlink()
