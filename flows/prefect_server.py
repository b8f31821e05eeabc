"""The project's own Prefect server: a command that holds it gets its address, and when nobody holds it any more it leaves.

One server per root, on a free loopback port, in one process. Two locks say all there is to know of it, since the kernel frees them
however a process ends, SIGKILL included; a pid file would go on telling of the dead:

    <views>/prefect/
    ├── held        shared by everyone who uses the server; taken whole by a server that leaves, so that who comes then waits
    ├── serving     held by the living server: there is never a second one on the same database
    ├── url         where that server answers; its health route decides whether it does
    └── server.log, prefect.db, …

Prefect is a view: a server that does not start, or is not there, costs a warning and nothing else. On a machine with several users
it is open to all of them, as Prefect's server is anywhere without a password: give one with `PREFECT_API_URL` where that matters.
"""

import argparse
import base64
import fcntl
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.infra.store import write_atomic
from ratchet.infra.views import view_folder

START_S = 60.0
"""How long to wait for a server: 3 s is usual, 6 s with a new database."""

LEAVE_S = 5.0
"""How long a server that leaves may take to finish what it answers."""

GRACE = "RATCHET_PREFECT_GRACE_S"
"""Environment variable: how many seconds a server stays when nobody holds it, so that the next command finds it (default 8)."""

ANSWER_S = 3.0
TAKEN = 75
"""The exit code of a server that found another one serving."""

_descriptors: set[int] = set()


def _close_in_child() -> None:
    """A forked worker must not go on holding what its parent held."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_close_in_child)


class NoServer(Exception):
    """No server answers; the message says why and where to look."""


@contextmanager
def hold(root: Path, warn: Callable[[str], None]) -> Iterator[str | None]:
    """The address of a Prefect API that lives at least as long as this context; None, with a warning, if there is none."""
    with ExitStack() as stack:
        try:
            url = _given() or _managed(root, stack)
        except (NoServer, InputError, OSError) as error:
            stack.close()
            warn(f"without Prefect: {error}")
            url = None
        yield url


def answers(url: str, *, timeout_s: float = ANSWER_S) -> bool:
    """Whether an API's health route answers."""
    here = "//127.0.0.1:" in url  # a proxy for the world outside knows nothing of this machine's loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({})) if here else urllib.request.build_opener()
    try:
        with opener.open(urllib.request.Request(f"{url.rstrip('/')}/health", headers=_credentials()), timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is there, and Prefect's client knows how to ask
    except (OSError, HTTPException, ValueError):  # no connection, no HTTP, no address
        return False


def _credentials() -> dict[str, str]:
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if words := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}
    return {}


def _given() -> str | None:
    url = os.environ.get("PREFECT_API_URL")
    if url and not answers(url):
        raise NoServer(f"PREFECT_API_URL is set, and {url}/health does not answer; unset it to use this project's own server")
    return url


def _managed(root: Path, stack: ExitStack) -> str:
    """Hold the root's server, starting it if there is none."""
    folder = view_folder(root) / "prefect"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + START_S
    _take(folder / "held", deadline, stack)
    started: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline:
        if _free(folder / "serving"):
            started = started or _start(folder, root)
            if started.poll() not in (None, TAKEN):
                raise NoServer(f"its server stopped while starting; why is in {folder / 'server.log'}\n  next: delete {folder} to start anew")
            if started.poll() == TAKEN:  # it met a server, which has gone since
                started = None
        elif (url := _read(folder / "url")) and answers(url):
            return url
        time.sleep(0.05)
    raise NoServer(f"its server did not answer within {START_S:.0f} s; see {folder / 'server.log'}")


def _take(path: Path, deadline: float, stack: ExitStack) -> None:
    """Share a lock, as soon as nobody holds it whole."""
    descriptor = _open(path)
    _descriptors.add(descriptor)
    stack.callback(_let_go, descriptor)
    while not _lock(descriptor, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise NoServer(f"a server that was to leave is still there; see {path.parent / 'server.log'}")
        time.sleep(0.05)


def _let_go(descriptor: int) -> None:
    if descriptor in _descriptors:
        _descriptors.remove(descriptor)
        os.close(descriptor)


def _free(path: Path) -> bool:
    """Whether nobody holds a lock."""
    descriptor = _open(path)
    try:
        return _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        return path.read_text()
    return None


def _start(folder: Path, root: Path) -> "subprocess.Popen[bytes]":
    """Start a server in a session of its own: Ctrl-C in a terminal is not meant for it."""
    command = [sys.executable, "-P", "-m", "ratchet.flows.prefect_server", "--serve", str(root)]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    threading.Thread(target=server.wait, daemon=True, name="prefect server").start()  # if it ends before we do, it is no zombie
    return server


def serve(root: Path) -> int:
    """Be the server of a root until nobody holds it."""
    folder = view_folder(root) / "prefect"
    serving = _open(folder / "serving")
    if not _lock(serving, fcntl.LOCK_EX):
        return TAKEN
    (folder / "url").unlink(missing_ok=True)  # of a server before
    with suppress(OSError):  # started by hand, it logs to a terminal
        os.ftruncate(sys.stderr.fileno(), 0)
    os.chdir(folder)  # settings in files of the user's working folder are not for this server
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        _own_environment(folder, url)
        _serve(listener, url, folder)
    return 0


def _own_environment(folder: Path, url: str) -> None:
    """Settings of this process alone: no profile, database or telemetry of the user's is touched."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ |= {
        "DO_NOT_TRACK": "true",
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(folder / "ui"),  # by default it is written into the installed package
    }


def _serve(listener: socket.socket, url: str, folder: Path) -> None:
    with without_collecting():
        import uvicorn
        from prefect.server.api.server import create_app

        quiet = {"log_level": "warning", "access_log": False, "timeout_graceful_shutdown": int(LEAVE_S)}
        # The page would ask the maker's analytics for their settings, whatever it is told: a browser lets it speak to this machine only.
        headers = [("Content-Security-Policy", "connect-src 'self' http://127.0.0.1:* ws://127.0.0.1:*")]
        config = uvicorn.Config(create_app(final=True), headers=headers, **quiet)
        server = uvicorn.Server(config)
    watch = threading.Thread(target=_watch, args=(server, url, folder), daemon=True, name="watch")
    watch.start()
    server.run(sockets=[listener])


def _watch(server: Any, url: str, folder: Path) -> None:
    """Say where the server is once it is up; tell it to leave once nobody has held it for a while."""
    held = _open(folder / "held")
    grace = float(os.environ.get(GRACE, "8"))
    used, told = time.monotonic(), False
    while not server.should_exit:
        if server.started and not told:
            write_atomic(folder / "url", url.encode())
            told = True
        if not _lock(held, fcntl.LOCK_EX):
            used = time.monotonic()
        elif time.monotonic() - used > grace:
            server.should_exit = True  # with `held` in hand: who comes now waits until this process is gone
            break
        else:
            fcntl.flock(held, fcntl.LOCK_UN)
        time.sleep(0.05 if not told else 0.25)
    time.sleep(2 * LEAVE_S)
    os.kill(os.getpid(), signal.SIGKILL)  # it hangs; nothing that it still does is of use to anybody


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import a lot without the garbage collector looking through it again and again: a quarter faster."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def main() -> int:
    """The process that `hold` starts."""
    parser = argparse.ArgumentParser(prog="ratchet.flows.prefect_server")
    parser.add_argument("--serve", type=Path, required=True, metavar="ROOT")
    return serve(parser.parse_args().serve)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # taking Prefect apart properly takes a second, for which the next command would have to wait
