"""A site of the chaos' own: a Slurm, the disk that its nodes share, and a store in a bucket behind a proxy that does harm."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.clusters import CLUSTER, Cluster, S3Server, script
from tests.s3.proxy import Proxy
from tests.toys.drive import wait_until

OPTIONS = ("--nodes", "2", "--memory", "4096", "--min-job-age", "5", "--requeue-delay", "5", "--node-timeout", "10")
"""Seconds where a site has minutes; a job of one CPU gets 512 MB."""
DISK_MB = 64
BUCKET = "chaos"
PREFIX = "ratchet-"
"""How the jobs of runs are called."""


@dataclass(frozen=True)
class Site(Cluster):
    """Two nodes, accounting, a disk that can be filled, and a bucket that can be kept from answering."""

    server: S3Server
    proxy: Proxy

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.server.credentials, "AWS_EC2_METADATA_DISABLED": "true"}

    @property
    def disk(self) -> Path:
        return self.state / "disk"

    def store(self, folder: str) -> tuple[str, ...]:
        """The words that put a run's store into the bucket."""
        where = ("store=s3", f"store.uri=s3://{BUCKET}/{folder}", f"store.endpoint_url={self.proxy.url}", "store.region=us-east-1")
        return (*where, "store.timeout_s=5")

    def up(self) -> None:
        self("up", *OPTIONS)
        self.disk.mkdir(exist_ok=True)
        if not self.disk.is_mount():
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "ratchet-chaos", str(self.disk)], check=True)

    def down(self) -> None:
        script(CLUSTER, "down", "--state", str(self.state))
        if self.disk.is_mount():
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)

    def answers(self, *command: str) -> str:
        """What one of Slurm's commands prints, if only an error."""
        return self.run(*command).stdout.strip()

    def queue(self) -> list[str]:
        """The runs' jobs that are not over, as `ID NAME STATE`."""
        return [line for line in self.says("squeue", "-h", "-r", "-o", "%i %j %T").splitlines() if line.split()[1].startswith(PREFIX)]

    def heal(self) -> None:
        """After a schedule: no jobs, and all daemons and nodes well; by starting anew, if need be."""
        self.proxy.reset()
        with suppress(AssertionError):
            self.says("scancel", "--me")
            for node in self.nodes():
                self.answers("scontrol", "update", f"NodeName={node}", "State=RESUME")
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
            for size in (65536, 1):
                with suppress(OSError), ballast.open("ab", buffering=0) as file:
                    while True:
                        file.write(b"." * size)
            yield
        finally:
            ballast.unlink()
