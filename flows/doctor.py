"""`ratchet doctor`: what of the environment works, as a table: each check ok, warn or fail, with what was found and what to do.

`fail` is what no run can do without, and the only thing that makes the exit code 1; `warn` is what some dial needs. Checks run side by
side, each within a time limit. Heavy vendors are asked in a process of their own: one that hangs or crashes is a line in the table.
"""

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import ratchet
from ratchet.errors import RatchetError
from ratchet.infra.views import filesystem_of, is_network, view_folder

LIMIT_S = 5.0
"""For what answers over a network or by a command."""
IMPORT_S = 30.0
"""For importing torch from a cold disk."""
HANGS = "this machine is busy, or a mount or server hangs: ask again, and look at that if it stays so"
LEAST_FREE, LITTLE_FREE = 100e6, 5e9
"""Bytes: below the first nothing can run, below the second real checkpoints will not fit."""

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Found:
    """What a check found."""

    state: State
    what: str
    next: str = ""


@dataclass(frozen=True)
class Check:
    """A question to the environment."""

    name: str
    ask: Callable[[], Found]
    otherwise: State = "warn"
    """What it means if the question cannot be answered."""


def doctor(root: Path, *, as_json: bool) -> int:
    """Print what works; returns 1 if something fails that every run needs."""
    asked = [
        Check("python", _python, "fail"),
        Check("packages", _packages),
        Check("torch", _torch, "fail"),
        Check("root", lambda: _root(root), "fail"),
        Check("disk", lambda: _disk(root)),
        Check("filesystem", lambda: _filesystem(root), "fail"),
        Check("MLflow", lambda: _mlflow(root)),
        Check("Prefect", _prefect),
        Check("SLURM", _slurm),
        Check("S3", _s3),
        Check("sandbox", _sandbox),
    ]
    found = _all(asked)
    if as_json:
        sys.stdout.write(json.dumps([{"check": name, **asdict(one)} for name, one in found.items()], indent=2, ensure_ascii=False) + "\n")
    else:
        _print(found)
    return int(any(one.state == "fail" for one in found.values()))


def _print(found: dict[str, Found]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ratchet.flows.tables import console

    table = Table()
    for column in ("check", "state", "found", "what to do"):
        table.add_column(column)
    for name, one in found.items():
        style = {"ok": "green", "warn": "yellow", "fail": "bold red"}[one.state]
        table.add_row(name, Text(one.state, style=style), Text(one.what), Text(one.next))
    console().print(table)


def _all(checks: list[Check]) -> dict[str, Found]:
    """Ask everything at once; a check that does not come back in time is left behind (a dead network mount never does)."""
    found: dict[str, Found] = {}

    def ask(check: Check) -> None:
        try:
            found[check.name] = check.ask()
        except RatchetError as error:
            found[check.name] = Found(check.otherwise, str(error).splitlines()[0])
        except subprocess.TimeoutExpired as error:
            found[check.name] = Found(check.otherwise, f"`{error.cmd[0]}` does not answer within {error.timeout:.0f} s", HANGS)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a machine, the doctor says it in a line
            found[check.name] = Found(check.otherwise, f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=ask, args=(check,), daemon=True, name=check.name) for check in checks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(IMPORT_S + LIMIT_S)
    return {check.name: found.get(check.name, Found(check.otherwise, f"no answer within {IMPORT_S + LIMIT_S:.0f} s", HANGS)) for check in checks}


def _python() -> Found:
    from packaging.specifiers import SpecifierSet

    version, wanted = platform.python_version(), importlib.metadata.metadata("ratchet")["Requires-Python"]
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Found("fail", version, f"make the environment with Python {wanted}")
    return Found("ok", f"{version}, {sys.executable}")


def _packages() -> Found:
    """Installed versions against what the package asks for and, in a clone, against the set that is tested together."""
    from packaging.requirements import Requirement

    wrong = []
    for line in importlib.metadata.requires("ratchet") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            version = _version(wanted.name)
            if version is None or not wanted.specifier.contains(version, prereleases=True):
                wrong.append(f"{wanted.name} {version or 'missing'} (needs {wanted.specifier or 'any'})")
    constraints = Path(ratchet.__file__).parents[1] / "constraints.txt"
    advice = "install with the tested set: `pip install -c constraints.txt -e .`"
    if wrong:
        return Found("fail", ", ".join(wrong), advice)
    if not constraints.exists():
        return Found("ok", "all within their ranges")
    pins = dict(line.strip().split("==") for line in constraints.read_text().splitlines() if "==" in line and not line.startswith("#"))
    have = {name: version.partition("+")[0] for name in pins if (version := _version(name))}  # a local part is the build: 2.13.0+cpu
    other = [f"{name} {version} (tested {pins[name]})" for name, version in have.items() if version != pins[name].partition("+")[0]]
    if other:
        return Found("warn", ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else ""), advice)
    return Found("ok", f"{len(have)} packages as in constraints.txt")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> Found:
    said = _python_says(
        "import json, torch; n = torch.cuda.device_count() if torch.cuda.is_available() else 0;"
        "print(json.dumps([torch.__version__, torch.get_num_threads(), [torch.cuda.get_device_name(i) for i in range(n)]]))",
        IMPORT_S,
    )
    version, threads, gpus = json.loads(said)
    cores = len(os.sched_getaffinity(0))
    what = f"{version}, {', '.join(gpus) or 'no GPU'}, {threads} threads on {cores} cores"
    if not gpus and shutil.which("nvidia-smi"):
        return Found("warn", what, "this machine has a GPU driver: install a torch build for its CUDA version to use the GPU")
    return Found("ok", what)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _root(root: Path) -> Found:
    folder = _existing(root)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Found("fail", f"cannot write to {folder}: {error.strerror}", "give another folder: --root PATH, or RATCHET_ROOT")
    return Found("ok", str(root) + ("" if root.exists() else " (created on first use)"))


def _disk(root: Path) -> Found:
    usage = os.statvfs(_existing(root))
    free, files = usage.f_bavail * usage.f_frsize, usage.f_favail if usage.f_files else 10**9
    what = f"{free / 1e9:.1f} GB free" + ("" if files >= 10_000 else f", room for {files} more files")
    if free < LEAST_FREE:
        return Found("fail", what, "free some space, or give another folder: --root PATH")
    if free < LITTLE_FREE or files < 10_000:
        return Found("warn", what, "every round keeps a policy: free some space before a long run")
    return Found("ok", what)


def _filesystem(root: Path) -> Found:
    folder = _existing(root)
    kind = filesystem_of(folder) or "unknown"
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Found("fail", f"{kind}, locks do not work: {error.strerror}", "mount it with locks (Lustre: `-o flock`), or give another --root")
    if is_network(folder):
        what = f"{kind}, a network filesystem; the views' SQLite lies under {view_folder(root)}"
        return Found("warn", what, "all machines that drive one run must see each other's locks: NFS 4, or Lustre mounted with `flock`")
    return Found("ok", f"{kind}, locks work")


def _mlflow(root: Path) -> Found:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return Found("ok", f"SQLite under {view_folder(root)}" if root.exists() else "SQLite under the root, created on first use")
    if not uri.startswith("http"):
        return Found("ok", f"MLFLOW_TRACKING_URI={uri}")
    return _answers("MLFLOW_TRACKING_URI", uri, f"{uri.rstrip('/')}/health", "runs go on without it and are replayed when it is back")


def _prefect() -> Found:
    if url := os.environ.get("PREFECT_API_URL"):
        return _answers("PREFECT_API_URL", url, f"{url.rstrip('/')}/health", "start that server, or unset PREFECT_API_URL; or run with --no-prefect")
    if _version("prefect") is None:
        return Found("warn", "not installed", "`pip install prefect`, or run with --no-prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
    return Found("ok", f"{_version('prefect')}: a server of this root's own is started when a run needs it")


def _answers(name: str, url: str, health: str, advice: str) -> Found:
    try:
        with urllib.request.urlopen(health, timeout=LIMIT_S) as reply:
            return Found("ok", f"{url} answers ({reply.status})")
    except urllib.error.HTTPError as error:
        return Found("warn", f"{name}={url} answers {error.code} {error.reason}", advice)
    except (OSError, ValueError) as error:
        return Found("warn", f"{name}={url} does not answer: {getattr(error, 'reason', error)}", advice)


def _slurm() -> Found:
    missing = [name for name in ("sbatch", "squeue", "sacct") if not shutil.which(name)]
    if "sbatch" in missing or "squeue" in missing:
        return Found("warn", f"{' and '.join(missing)} not on PATH", "only executor=slurm needs it: use a login node, or load its module")
    advice = "the controller does not answer: ask its administrator"
    try:
        done = subprocess.run(["sinfo", "--noheader", "--format=%P %a"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Found("warn", f"sinfo does not come back within {LIMIT_S:.0f} s", advice)
    if done.returncode:
        return Found("warn", f"sinfo: {done.stderr.strip()[:200]}", advice)
    partitions = ", ".join(sorted({line.split()[0] for line in done.stdout.splitlines() if line.strip()}))
    if missing:
        return Found("warn", f"partitions {partitions}; no sacct", "without accounting a job's end is read from its own exit record only")
    return Found("ok", f"partitions {partitions}")


def _s3() -> Found:
    where = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    found = _python_says("import boto3; c = boto3.Session().get_credentials(); print(c.method if c else '')", 2 * LIMIT_S).strip()
    if not found:
        return Found(
            "warn", f"no credentials for {where}", "only s3:// paths need them: `aws configure`, or AWS_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY"
        )
    return Found("ok", f"{where}, credentials from {found}")


def _sandbox() -> Found:
    if shutil.which("bwrap") and _runs("bwrap", "--ro-bind", "/", "/", "true"):
        return Found("ok", "bubblewrap")
    if shutil.which("unshare") and _runs("unshare", "--user", "--map-root-user", "true"):
        return Found("ok", "unprivileged user namespaces")
    return Found("warn", "neither bubblewrap nor user namespaces", "only verifiers that run code need one: install bubblewrap")


def _runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False).returncode == 0


def _python_says(code: str, limit_s: float) -> str:
    """What a few lines print in a Python of their own; an error's last line if they fail."""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise RatchetError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300])
    return done.stdout
