"""A warm `ratchet`: a process that has everything imported and forks a child per command, so that a command costs a tenth of a second.

A child may be told to die (`Die`): SIGKILL to itself right before or after the n-th call of a function, which is how the tests put a
driver's death at any moment they like without a hook in the product. `python -m tests.toys.drive` is the server's side.
"""

import atexit
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ratchet.infra.claims import Claim

HOUSE = Path(__file__).parents[2]
WARM = (
    *(
        "hydra._internal.core_plugins.importlib_resources_config_source",
        "boto3",
        "omegaconf",
        "pydantic",
        "rich.progress",
        "yaml",
        "tests.toys.parts",
    ),
    *(f"ratchet.flows.{name}" for name in ("cli", "compose", "delete", "logs", "plan", "retry", "session", "sweep")),
)
TOYS = ("--config-dir", str(HOUSE / "tests/toys/configs"), "experiment=toy")


@dataclass(frozen=True)
class Die:
    """Where a child kills itself: at the n-th call of a function or method, counting only calls that have `word` among their arguments."""

    at: str
    n: int = 1
    when: str = "before"
    word: str | None = None


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    """Exit code; negative: killed by that signal."""
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Going:
    """A command under way."""

    warm: "Warm"
    pid: int
    folder: Path

    def wait(self) -> Done:
        code = self.warm.ask({"wait": self.pid})["code"]
        return Done(code, (self.folder / "out").read_text(), (self.folder / "err").read_text())


@dataclass
class Warm:
    """The client's side of the server."""

    where: Path
    """Where what commands print is kept until the end."""
    module: str = "tests.toys.drive"
    """The server's side: this one, or one that has more imported."""
    server: "subprocess.Popen[str]" = field(init=False)
    folder: Path = field(init=False)
    started: int = 0

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ratchet-drive-", dir=self.where))
        environment = {**os.environ, "PYTHONPATH": str(HOUSE)}
        command = [sys.executable, "-P", "-m", self.module]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        atexit.register(self.close)

    def ask(self, request: Mapping[str, Any]) -> Any:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        *words: str,
        root: Path,
        die: Die | None = None,
        env: Mapping[str, str] | None = None,
        uid: int | None = None,
        largest: int | None = None,
        main: str = "ratchet.flows.cli.main",
    ) -> Going:
        """Begin `ratchet WORDS…` (or another main) under a root, as another user or with a limit on the size of files if asked."""
        self.started += 1
        folder = self.folder / str(self.started)
        folder.mkdir()
        request = {
            "words": words,
            "folder": str(folder),
            "env": {"RATCHET_ROOT": str(root), **(env or {})},
            "die": asdict(die) if die else None,
            "uid": uid,
            "largest": largest,
            "main": main,
        }
        return Going(self, self.ask(request)["pid"], folder)

    def __call__(self, *words: str, root: Path, **more: Any) -> Done:
        return self.start(*words, root=root, **more).wait()

    def run(self, *words: str, root: Path, **more: Any) -> Done:
        """`ratchet run` of a recipe on the toy policy, without Prefect."""
        return self("run", *TOYS, *words, "--no-prefect", root=root, **more)

    def close(self) -> None:
        if self.server.stdin and not self.server.stdin.closed:
            self.server.stdin.close()
            self.server.wait(timeout=10)
            shutil.rmtree(self.folder, ignore_errors=True)


def serve() -> None:
    """Fork a child per request; answer with its pid, later with its exit code."""
    for module in WARM:
        importlib.import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        elif pid := os.fork():
            answer = {"pid": pid}
        else:
            _child(request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _child(request: Mapping[str, Any]) -> None:
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(Path(request["folder"]) / name, os.O_WRONLY | os.O_CREAT, 0o644), number)
        os.environ.update(request["env"])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests in the background has it ignored
        if request["die"]:
            arm(Die(**request["die"]))
        if request["largest"]:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
        if request["uid"] is not None:
            os.setuid(request["uid"])
        sys.argv = ["ratchet", *request["words"]]
        module, _, name = request["main"].rpartition(".")
        code = _exit_code(getattr(importlib.import_module(module), name), request["words"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """What the console script would exit with, a traceback printed as the interpreter would."""
    import traceback

    try:
        return main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - stands for the interpreter's own last resort
        traceback.print_exc()
        return 1


def arm(die: Die) -> None:
    """Put the death in place."""
    path, _, name = die.at.rpartition(".")
    owner = _owner(path)
    whole = getattr(owner, name)
    count = [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        count[0] += die.word is None or die.word in args or die.word in kwargs.values()
        mine = count[0] == die.n and (die.word is None or die.word in args or die.word in kwargs.values())
        if mine and die.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def _owner(path: str) -> Any:
    """The module or class under a dotted name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def last_words(root: Path) -> dict[str, list[str]]:
    """How every attempt at every unit of work under a root ended, in its own words: identity → `published`, `failed`, … or `none`."""
    claims = [Claim(folder) for folder in sorted((root / ".ratchet" / "claims").iterdir())]
    words = {claim.folder.name: [claim.exit(n) or {"state": "none"} for n in range(1, claim.attempts() + 1)] for claim in claims}
    return {identity: [word["state"] for word in found] for identity, found in words.items() if found}


def wait_until(so: Callable[[], Any], what: str, limit_s: float = 20.0) -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + limit_s
    while not so():
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(0.01)


if __name__ == "__main__":
    serve()
