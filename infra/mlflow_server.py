"""An MLflow server for as long as somebody holds it: on a free loopback port, gone with its holder however that ends.

Three processes: a guard (this module as a program), MLflow's command line, and the one worker it starts. The guard reads a pipe
whose other end the holder has: when that closes, by the holder's will or its death, the guard ends the whole process group.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.infra.tracking import QUIET

START_S = 90.0
"""Seconds for a server to answer; on a busy machine its imports alone take half a minute."""
END_S = 5.0
"""Seconds for its processes to end by themselves."""

ENVIRONMENT = {**QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
"""Without job execution it is 2 processes and half a gigabyte, with it 10 and 2.4."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """An MLflow server that was started."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_S
        while not self._answers():
            if not self.alive or time.monotonic() > deadline:
                tail = "\n".join(f"    {line}" for line in self.log.read_text(errors="replace").splitlines()[-12:])
                raise RatchetError(f"the MLflow server did not start\n  end of its log ({self.log}):\n{tail}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return int(answer.status) == 200
        except OSError:
            return False


@contextmanager
def mlflow_server(address: str, folder: Path) -> Iterator[Server]:
    """Serve what is at an address (a database URI); artifacts of new experiments and the log lie in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = _free_port(), folder / "mlflow-server.log"
    command = [sys.executable, "-P", "-m", "ratchet.infra.mlflow_server", address, str(port), (folder / "mlflow").as_uri()]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=_environment(), start_new_session=True)
    assert process.stdin is not None
    try:
        yield Server(url=f"http://127.0.0.1:{port}", process=process, log=log)
    finally:
        process.stdin.close()
        process.wait()


def _environment() -> Mapping[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}, **ENVIRONMENT}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def guard(address: str, port: str, artifacts: str) -> None:
    """Run the server until it ends or standard input does; then end the whole process group, this process included."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # sent to the whole group, and the guard goes last
    options = ["--host", "127.0.0.1", "--port", port, "--workers", "1", "--backend-store-uri", address, "--default-artifact-root", artifacts]
    server = subprocess.Popen([sys.executable, "-P", "-m", "mlflow", "server", *options], stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, daemon=True).start()
    server.wait()
    os.killpg(0, signal.SIGKILL)  # whatever it left behind


def _watch() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    time.sleep(END_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    guard(*sys.argv[1:])
