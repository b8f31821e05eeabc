"""The launch protocol: every stage is made once, whoever dies when.

For each stage asked: published? reuse. Else take its lock (the kernel frees it on SIGKILL) and look again. A recorded job is probed:
if it lives, attach. Else write the spec, submit *held*, make the job durable, release. A job publishes its own result, so it is
collected whether or not a driver watched. An attempt that ends without publishing fails its stage in the driver that started or
attached to it; the next command makes a new attempt.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ratchet.artifacts import Manifest
from ratchet.errors import StageFailed
from ratchet.infra.claims import NEVER_RELEASED, Claim, Lock
from ratchet.infra.executors import Executor, Job, JobRecord
from ratchet.infra.store import LocalStore
from ratchet.stages import Stage

GRACE_S = 2.0
"""How long after a job's end its result may still become visible (shared filesystems)."""


class Watch(Protocol):
    """Told what happens to stages while they are made."""

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None: ...

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None: ...

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None: ...

    def waiting(self, stage: Stage) -> None: ...


@dataclass(kw_only=True)
class Work:
    """A stage that is not published yet."""

    stage: Stage
    claim: Claim
    lock: Lock
    record: JobRecord | None = None
    number: int = 0
    told_waiting: bool = False


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Makes stages on an executor, in a store."""

    store: LocalStore
    executor: Executor
    job: Callable[[str, int], Job]
    """From identity and attempt to what the executor runs."""
    watch: Watch
    poll_s: float = 0.02
    _told: set[int] = field(default_factory=set[int], compare=False, repr=False)
    """The stages of a batch whose end the watch has heard of, as it came."""

    def make(self, stages: Sequence[Stage]) -> list[Manifest]:
        """The stages' artifacts, in order: reused, attached to, or made; sharded ones by their shards first."""
        whole = {stage.identity: stage for stage in stages if not self.store.find(stage.identity)}
        shards = {identity: stage.shards() for identity, stage in whole.items()}
        fresh = self._work([shard for found in shards.values() for shard in found] + [stage for i, stage in whole.items() if not shards[i]])
        for identity, parts in shards.items():
            if parts:
                self._assemble(whole[identity], parts)
                fresh.add(identity)
        found = [self._published(stage) for stage in stages]
        for stage, manifest in zip(stages, found, strict=True):
            if id(stage) not in self._told:
                self.watch.published(stage, manifest, reused=stage.identity not in fresh)
        self._told.clear()
        return found

    def _published(self, stage: Stage) -> Manifest:
        manifest = self.store.find(stage.identity)
        assert manifest is not None, f"{stage.title} was made and is not there"
        return manifest

    def _work(self, stages: Sequence[Stage]) -> set[str]:
        """Do what is missing; return the identities that were made and not found."""
        pending = {s.identity: self._claim(s) for s in stages if not self.store.find(s.identity)}
        made = set(pending)
        with self._locks(pending):
            pause = self.poll_s
            while pending:
                if self._turn(pending):
                    pause = self.poll_s
                    continue
                time.sleep(pause)
                pause = min(pause * 1.3, 1.0)
        return made

    def _claim(self, stage: Stage) -> Work:
        folder = self.store.state / "claims" / stage.identity
        return Work(stage=stage, claim=Claim(folder), lock=Lock(folder / "lock"))

    @contextmanager
    def _locks(self, pending: dict[str, Work]) -> Iterator[None]:
        with ExitStack() as stack:
            for work in list(pending.values()):
                stack.callback(work.lock.release)
            yield

    def _turn(self, pending: dict[str, Work]) -> bool:
        """Look at every stage once and do the next thing for it; True if anything moved."""
        moved = False
        for identity, work in list(pending.items()):
            if work.record is None and (manifest := self.store.find(identity)):
                self._collect(work, manifest)
                del pending[identity]
                moved = True
            elif work.record is None and work.lock.try_acquire():
                moved |= self._attach(work) or self._start(work, pending)
            elif work.record is None and not work.told_waiting:
                work.told_waiting = True
                self.watch.waiting(work.stage)
        running = [work for work in pending.values() if work.record]
        states = self.executor.probe([work.record for work in running if work.record])
        for work, state in zip(running, states, strict=True):
            if state == "held":
                self.executor.release(work.record or {})
            elif state == "over":
                if self._settle(work):
                    del pending[work.stage.identity]
                moved = True
        return moved

    def _attach(self, work: Work) -> bool:
        """Take up the attempt that a driver before this one left, if it still lives."""
        record = work.claim.job()
        if record is None or self.store.find(work.stage.identity):
            return False
        if self.executor.probe([record["job"]]) == ["over"]:
            work.claim.forget()
            return False
        work.record, work.number = record["job"], record["attempt"]
        self.watch.attempt(work.stage, work.number, record["job"], attached=True)
        return True

    def _start(self, work: Work, pending: dict[str, Work]) -> bool:
        """Begin a new attempt, if the executor has a free slot."""
        if self.store.find(work.stage.identity) or sum(other.record is not None for other in pending.values()) >= self.executor.slots:
            return False
        number = work.claim.attempts() + 1
        work.claim.write_spec(work.stage.spec())
        work.claim.attempt(number).mkdir(parents=True, exist_ok=True)
        record = self.executor.submit(self.job(work.stage.identity, number))
        work.claim.record({"attempt": number, "job": record})
        work.record, work.number = record, number
        self.watch.attempt(work.stage, number, record, attached=False)
        self.executor.release(record)
        return True

    def _settle(self, work: Work) -> bool:
        """A job is over: collect what it published, or say how it failed; False if it never began, so that another must be started."""
        deadline = time.monotonic() + GRACE_S
        said = work.claim.exit(work.number)
        while not (manifest := self.store.find(work.stage.identity)):
            if said is not None and said["state"] == NEVER_RELEASED:
                work.claim.forget()
                work.record = None
                return False
            if said is not None or time.monotonic() > deadline:
                error = self._failure(work, said)
                work.claim.forget()
                self.watch.failed(work.stage, work.number, error)
                raise error
            time.sleep(0.05)
            said = work.claim.exit(work.number)
        self._collect(work, manifest)
        return True

    def _collect(self, work: Work, manifest: Manifest) -> None:
        work.claim.forget()
        for left in (self.store.state / "drafts").glob(f"{work.stage.identity}.*"):  # of attempts that were killed
            shutil.rmtree(left, ignore_errors=True)
        self.watch.published(work.stage, manifest, reused=False)
        self._told.add(id(work.stage))
        work.lock.release()

    def _failure(self, work: Work, said: dict[str, Any] | None) -> StageFailed:
        log = work.claim.attempt(work.number) / "log"
        record = work.record or {}
        reason = (said or {}).get("reason", "it ended without publishing and without a word")
        printed = tail(log)
        return StageFailed(
            work.stage.title,
            state=(said or {}).get("state", self.executor.verdict(record)),
            reason=reason,
            exit_code=(said or {}).get("exit_code", 1),
            log_tail=printed if printed.strip() != reason.strip() else "",
            log_path=str(log),
            next="mend the cause and give the same command again: everything that is published stays",
        )

    def _assemble(self, stage: Stage, shards: Sequence[Stage]) -> None:
        """Publish a sharded stage: a manifest over its shards, which must all be there."""
        manifests = [self._published(shard) for shard in shards]
        names = {name for manifest in manifests for name in manifest.metrics}
        draft = self.store.draft(stage.identity, f"shards-{time.time_ns()}")
        self.store.publish(
            draft,
            identity=stage.identity,
            kind=manifests[0].kind,
            rows=sum(manifest.rows for manifest in manifests),
            # Verbs that shard report counts only, so that a sum is what the whole would have reported.
            metrics={name: sum(manifest.metrics.get(name, 0) for manifest in manifests) for name in sorted(names)},
            parts=[{"identity": m.identity, "digest": m.digest, "rows": m.rows} for m in manifests],
            producer={"verb": stage.verb, **stage.description},
            inputs=stage.essence["inputs"],
            made={"seconds": sum(self.store.made(m.identity).get("seconds", 0.0) for m in manifests)},
        )


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
