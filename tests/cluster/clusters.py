"""A Slurm and an S3 server of the tests' own, by the scripts that users start them with (`infra/slurm`, `infra/s3`).

Each lives in a folder of its own, so that sessions of several people on one machine do not meet. `RATCHET_TEST_SLURM_STATE` and
`RATCHET_TEST_S3_FOLDER` name one that is up already and is to be used instead: it is left up.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ratchet.infra.claims import Lock
from tests.toys.drive import HOUSE

CLUSTER, SERVER = HOUSE / "infra/slurm/cluster.sh", HOUSE / "infra/s3/server.sh"


def script(path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """A verb of one of the scripts."""
    return subprocess.run(["bash", str(path), *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def succeed(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command printed, which must have succeeded."""
    assert 0 == done.returncode, f"{' '.join(done.args)}: {done.stderr}{done.stdout}"
    return done.stdout.strip()


@contextmanager
def installing() -> Iterator[None]:
    """One at a time: dpkg refuses a second, and tests run side by side."""
    with Lock(Path(tempfile.gettempdir()) / "ratchet-tests-install") as lock:
        while not lock.try_acquire():
            time.sleep(0.5)
        yield


def need_installed(path: Path) -> None:
    """Skip, with the reason, where the packages cannot be had. CI is root: there anything else is a failure."""
    if os.geteuid() != 0:
        reason = f"{path.relative_to(HOUSE)} starts system daemons and needs root; this is user {os.geteuid()}"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with installing():
        installed = script(path, "install")
    if installed.returncode:
        pytest.skip(installed.stderr.strip())


@dataclass(frozen=True)
class Seen:
    """A job as `squeue` shows it."""

    state: str
    reason: str
    restarts: int
    node: str


@dataclass(frozen=True)
class Cluster:
    """A Slurm that is up."""

    state: Path

    def __call__(self, verb: str, *options: str) -> str:
        """A verb of `cluster.sh`."""
        return succeed(script(CLUSTER, verb, *options, "--state", str(self.state)))

    @property
    def environment(self) -> dict[str, str]:
        """What makes Slurm's commands, and whoever uses them, speak to this cluster."""
        return {"SLURM_CONF": str(self.state / "slurm.conf")}

    def run(self, *command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """One of Slurm's commands."""
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **self.environment}, cwd=cwd or self.state)

    def says(self, *command: str) -> str:
        return succeed(self.run(*command))

    def submit(self, work: str, *options: str, out: Path | str = "/dev/null") -> str:
        """The id of a job that runs a line of shell as its own process."""
        return self.says("sbatch", "--parsable", "--open-mode=append", f"--output={out}", *options, "--wrap", f"exec {work}")

    def seen(self, id: str) -> Seen | None:
        """None: the controller does not know it."""
        line = self.says("squeue", "-h", "-r", "-t", "all", "-O", "JobArrayID:|,State:|,Reason:|,RestartCnt:|,NodeList:|")
        rows = [[part.strip() for part in row.split("|")] for row in line.splitlines()]
        return next((Seen(state, reason, int(restarts), node) for found, state, reason, restarts, node, *_ in rows if found == id), None)

    def wait(self, id: str, state: str, *, restarts: int = 0, limit_s: float = 20) -> Seen:
        """Wait until a job is in a state, not counting those before its n-th restart."""
        deadline = time.monotonic() + limit_s
        while (now := self.seen(id)) is None or now.state != state or now.restarts < restarts:
            assert time.monotonic() < deadline, f"waited {limit_s} s for job {id} to be {state}; it is {now}"
            time.sleep(0.05)
        return now

    def accounting(self, id: str, fields: Sequence[str] = ("State", "ExitCode")) -> list[tuple[str, ...]]:
        """What `sacct` remembers of a job, a row for each time that it was begun. It hears of things a little after the queue does."""
        rows = self.says("sacct", "-n", "-P", "-X", "-D", "-o", ",".join(fields), "-j", id).splitlines()
        return [tuple(row.split("|")) for row in rows]

    def remembers(self, id: str, *rows: tuple[str, ...], fields: Sequence[str] = ("State", "ExitCode")) -> bool:
        """Whether `sacct` says so of a job, or soon does."""
        deadline = time.monotonic() + 15
        while (said := self.accounting(id, fields)) != list(rows):
            assert time.monotonic() < deadline, f"waited 15 s for sacct to say {list(rows)} of job {id}; it says {said}"
            time.sleep(0.2)
        return True

    def clear(self) -> None:
        """Cancel every job, and see them gone."""
        self.says("scancel", "--quiet", "--user=root")
        deadline = time.monotonic() + 30
        while left := self.says("squeue", "-h"):
            assert time.monotonic() < deadline, f"waited 30 s for jobs to be cancelled: {left}"
            time.sleep(0.1)

    def nodes(self) -> dict[str, str]:
        return dict(line.split() for line in self.says("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines())


@contextmanager
def cluster(*options: str) -> Iterator[Cluster]:
    """A cluster of one's own; see `cluster.sh --help` for the options."""
    with tempfile.TemporaryDirectory(prefix="ratchet-slurm-", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        try:
            made("up", *options)
            yield made
        finally:
            script(CLUSTER, "down", "--state", folder)


@dataclass(frozen=True)
class S3Server:
    """An S3 server that is up."""

    folder: Path

    def __call__(self, verb: str, *words: str) -> str:
        """A verb of `server.sh`."""
        return succeed(script(SERVER, verb, str(self.folder), *words))

    @property
    def endpoint(self) -> str:
        return (self.folder / "endpoint").read_text().strip()

    @property
    def credentials(self) -> Mapping[str, str]:
        """The environment by which boto3 finds it."""
        return dict(line.split("=", 1) for line in (self.folder / "credentials").read_text().splitlines())


@contextmanager
def s3() -> Iterator[S3Server]:
    """A server of one's own."""
    with tempfile.TemporaryDirectory(prefix="ratchet-s3-", ignore_cleanup_errors=True) as folder:
        made = S3Server(Path(folder))
        try:
            made("up")
            yield made
        finally:
            script(SERVER, "down", folder)


def daemons_of(state: Path) -> list[str]:
    """What still runs of what a script started with this folder: names, by the mark in their environment."""
    mark = f"RATCHET_STATE={state}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or of a container's own init
            continue
    return sorted(found)
