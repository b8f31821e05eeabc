"""What runs in a job: take a stage's identity, read its spec, do the work, publish.

    python -P -m ratchet.flows.job STATE IDENTITY ATTEMPT [--held]

It imports neither Prefect nor Hydra nor MLflow. It looks first whether the stage is published (a requeued job then leaves at once),
works in a draft named by its attempt, and leaves `exit.json`, its last word, beside its log. Each start adds a line to `starts`: a
job that SLURM requeues is the same attempt, begun again.
"""

import contextlib
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.identity import canonical, construct, source_digest
from ratchet.infra.claims import INTERRUPTED, NEVER_RELEASED, Claim, Lock
from ratchet.infra.executors import Job
from ratchet.infra.store import Store, write_atomic
from ratchet.infra.stores import open_store
from ratchet.interruption import TRY_AGAIN, Interrupted, forget, listen, safe_point
from ratchet.stages import Draft, run


def job_of(store: Store, identity: str, attempt: int) -> Job:
    """A stage's attempt as an executor takes it."""
    claim = Claim(store.state / "claims" / identity)
    spec = claim.spec()
    return Job(
        identity=identity,
        attempt=attempt,
        verb=spec["verb"],
        round=spec["round"],
        arguments=("ratchet.flows.job", str(store.state), identity, str(attempt)),
        call=lambda: perform_here(store, identity, attempt),
        log=claim.attempt(attempt) / "log",
        state=store.state,
        modules=tuple(sorted({"ratchet", *modules_of(spec["component"])})),
    )


def modules_of(description: Any) -> Iterator[str]:
    """The top-level modules of a description's components."""
    if isinstance(description, Mapping):
        if "component" in description and "fields" in description:
            yield description["component"].partition(".")[0]
        for value in description.values():
            yield from modules_of(value)
    elif isinstance(description, list):
        for value in description:
            yield from modules_of(value)


def perform_here(store: Store, identity: str, attempt: int) -> None:
    """The job in the driver's own process: what it prints goes to its log, what it raises to `exit.json`."""
    log = store.state / "claims" / identity / "attempts" / str(attempt) / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        perform(store, identity, attempt)


def perform(store: Store, identity: str, attempt: int) -> int:
    """Do a stage's work and publish it; return the exit code. Never raises, but for what ends the process itself."""
    forget()
    claim = Claim(store.state / "claims" / identity)
    with _fence(claim):
        began = time.time()
        draft: Path | None = None
        try:
            if store.find(identity):
                return 0
            _started(claim, attempt, began)
            draft = store.draft(identity, f"{attempt}.{platform.node()}.{os.getpid()}")  # a requeued job's own, should the former still live
            _work(store, claim, identity, attempt, draft, began)
        except Interrupted as wish:
            sys.stderr.write(f"asked to stop by {wish}; what is done is kept, and another attempt goes on from there\n")
            _last_word(claim, attempt, began, INTERRUPTED, f"asked to stop by {wish}", TRY_AGAIN)
            return TRY_AGAIN
        except RatchetError as error:
            sys.stderr.write(f"{error}\n")
            return _last_word(claim, attempt, began, "failed", str(error), error.exit_code)
        except MemoryError as error:
            traceback.print_exc()
            return _last_word(claim, attempt, began, "out of memory", f"MemoryError: {error}")
        except OSError as error:
            traceback.print_exc()
            return _last_word(claim, attempt, began, "failed", f"{error} (free space or mend the path, then run again)")
        except Exception as error:  # noqa: BLE001 - the boundary of the job: whatever a component raises becomes its last word
            traceback.print_exc()
            return _last_word(claim, attempt, began, "failed", f"{type(error).__name__}: {error}")
        finally:
            if draft is not None and draft.exists():
                _discard(draft)
    return _last_word(claim, attempt, began, "published", "")


def _work(store: Store, claim: Claim, identity: str, attempt: int, draft: Path, began: float) -> None:
    spec = claim.spec()
    claim.scratch.mkdir(parents=True, exist_ok=True)
    made = run(spec, store.open, Draft(folder=draft, scratch=claim.scratch, progress=_progress(claim, attempt)))
    store.publish(
        draft,
        identity=identity,
        kind=made.kind,
        rows=made.rows,
        metrics=made.metrics,
        groups=made.groups,
        producer={"verb": spec["verb"], **spec["component"]},
        inputs=spec["digests"],
        made={**circumstances(spec), "attempt": attempt, "seconds": round(time.time() - began, 3)},
    )
    _discard(claim.scratch)


def _started(claim: Claim, attempt: int, began: float) -> None:
    """Note that the attempt begins (again), and take back the last word of the time before."""
    folder = claim.attempt(attempt)
    if folder.is_dir():
        (folder / "exit.json").unlink(missing_ok=True)
        line = {"at": began, "host": platform.node(), "pid": os.getpid(), "slurm": os.environ.get("SLURM_JOB_ID")}
        with (folder / "starts").open("ab") as starts:
            starts.write(canonical(line) + b"\n")


def circumstances(spec: dict[str, Any]) -> dict[str, Any]:
    """Host, versions, threads and source digest: what a result should not depend on, for when it does."""
    packages = [name for name in ("torch", "transformers", "trl", "math-verify", "numpy") if name.replace("-", "_") in sys.modules]
    if packages:
        import importlib.metadata  # a quarter of the start of a job that needs none
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "source": source_digest(construct(spec["component"])),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def _progress(claim: Claim, attempt: int) -> Any:
    last = [0.0]

    def progress(rows: int) -> None:
        safe_point()
        if time.monotonic() - last[0] > 0.5:
            last[0] = time.monotonic()
            path = claim.attempt(attempt) / "progress.json"
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(canonical({"rows": rows, "at": time.time()}))
            temporary.replace(path)

    return progress


@contextlib.contextmanager
def _fence(claim: Claim) -> Iterator[None]:
    """Wait while another attempt on this host is at the same stage."""
    lock = Lock(claim.folder / "run.lock")
    while not lock.try_acquire():
        time.sleep(0.2)
    try:
        yield
    finally:
        lock.release()


def _last_word(claim: Claim, attempt: int, began: float, state: str, reason: str, code: int = 1) -> int:
    if not claim.attempt(attempt).is_dir():
        return 0 if state == "published" else 1  # the run was deleted meanwhile: nothing of it is to come back
    with contextlib.suppress(OSError):  # a full disk must not hide why the stage failed: the log and the exit code still say it
        word = {"state": state, "reason": reason, "began": began, "ended": time.time(), "exit_code": code}
        write_atomic(claim.attempt(attempt) / "exit.json", canonical(word), flush=state != "published")  # the artifact itself says as much
    return 0 if state == "published" else 1


def _discard(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """The job's process."""
    state, identity, attempt, *held = arguments
    listen(signal.SIGUSR2, signal.SIGTERM)
    store = open_store(Claim(Path(state) / "claims" / identity).spec().get("store", {}), Path(state))
    if held and not sys.stdin.buffer.readline():
        why = "the driver died before it let this job go; nothing was done"
        sys.stderr.write(f"{why}\n")
        _last_word(Claim(store.state / "claims" / identity), int(attempt), time.time(), NEVER_RELEASED, why)
        return 0
    return perform(store, identity, int(attempt))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
