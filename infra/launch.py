"""The launch protocol: every stage is made once, whoever dies when.

For each stage asked: published? reuse. Else take its lock (the kernel frees it on SIGKILL) and look again. A recorded job is probed:
if it may yet do something, attach. An intent without a record is looked up by its name: a job that is still held is ended, since it
did nothing. Else write spec and intent, submit *held*, make the job durable, release. A job publishes its own result, so it is
collected whether or not a driver watched.

An attempt that fails ends its stage in the driver that started or attached to it; the next command makes a new one. An attempt that
is lost (preempted, out of walltime, gone with its node) says nothing about the stage, which is begun again, `executor.attempts` times.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ratchet.artifacts import Manifest
from ratchet.errors import StageFailed
from ratchet.identity import canonical, digest
from ratchet.infra.claims import INTERRUPTED, NEVER_RELEASED, Claim, Lock
from ratchet.infra.crew import Crew
from ratchet.infra.executors import Job, JobRecord
from ratchet.infra.store import Store, write_atomic
from ratchet.stages import Stage

QUIET_S, SLOWEST_S, LOOKS_A_SECOND = 0.2, 1.0, 500
"""How long the launcher sleeps while nothing moves: the longer, the more jobs it looks at, since each look opens a file."""


class Watch(Protocol):
    """Told what happens to stages while they are made."""

    def attempt(self, stage: Stage, number: int, record: JobRecord, *, attached: bool) -> None: ...

    def seen(self, stage: Stage, words: str) -> None: ...

    def published(self, stage: Stage, manifest: Manifest, *, reused: bool) -> None: ...

    def lost(self, stage: Stage, number: int, words: str) -> None: ...

    def failed(self, stage: Stage, number: int, error: StageFailed) -> None: ...

    def waiting(self, stage: Stage) -> None: ...


@dataclass(kw_only=True)
class Work:
    """A stage that is not published yet."""

    stage: Stage
    claim: Claim
    lock: Lock
    ours: bool = False
    """Its lock is held, and it was not published when the lock was taken."""
    record: JobRecord | None = None
    number: int = 0
    tries: int = 0
    """How often it was begun since it last failed, this attempt included."""
    words: str = ""
    told_waiting: bool = False


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Makes stages on an executor, in a store."""

    store: Store
    executor: Crew
    job: Callable[[str, int], Job]
    """From identity and attempt to what the executor runs."""
    watch: Watch
    in_hand: Callable[[], None] = lambda: None
    """Raises if the run is no longer this driver's; asked before anything is submitted."""
    poll_s: float = 0.02
    _told: set[int] = field(default_factory=set[int], compare=False, repr=False)
    """The stages of a batch whose end the watch has heard of, as it came."""

    def make(self, stages: Sequence[Stage]) -> list[Manifest]:
        """The stages' artifacts, in order: reused, attached to, or made; sharded ones by their shards first."""
        there = {stage.identity: self.store.find(stage.identity) for stage in stages}
        whole = {stage.identity: stage for stage in stages if not there[stage.identity]}
        shards = {identity: stage.shards() for identity, stage in whole.items()}
        fresh = self._work([shard for found in shards.values() for shard in found] + [stage for i, stage in whole.items() if not shards[i]])
        for identity, parts in shards.items():
            if parts:
                self._assemble(whole[identity], parts)
                fresh.add(identity)
        found = [there[stage.identity] or self._published(stage) for stage in stages]
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
                pause = min(pause * 1.3, min(max(QUIET_S, len(pending) / LOOKS_A_SECOND), SLOWEST_S))
        return made

    def _claim(self, stage: Stage) -> Work:
        folder = self.store.state / "claims" / stage.identity
        return Work(stage=stage, claim=Claim(folder, flush=self.executor.outlives_machine), lock=Lock(folder / "lock"))

    @contextmanager
    def _locks(self, pending: dict[str, Work]) -> Iterator[None]:
        with ExitStack() as stack:
            for work in list(pending.values()):
                stack.callback(work.lock.release)
            yield

    def _turn(self, pending: dict[str, Work]) -> bool:
        """Do the next thing for every stage; True if anything moved."""
        moved = self._take(pending)
        moved |= self._attach([work for work in pending.values() if work.ours and work.record is None and work.claim.begun()])
        moved |= self._start([work for work in pending.values() if work.ours and work.record is None and not work.claim.begun()], pending)
        return self._follow(pending) or moved

    def _take(self, pending: dict[str, Work]) -> bool:
        """Collect what others published, and take the locks that are free."""
        moved = False
        for identity, work in [(i, w) for i, w in pending.items() if not w.ours]:
            locked = work.lock.try_acquire()
            if manifest := self.store.find(identity):  # looked for after the lock was taken: nobody else makes it from here on
                self._collect(work, manifest)
                del pending[identity]
                moved = True
            elif locked:
                work.ours = moved = True
            elif not work.told_waiting:
                work.told_waiting = True
                self.watch.waiting(work.stage)
        return moved

    def _attach(self, works: Sequence[Work]) -> bool:
        """Take up the attempts that a driver before this one left, where they still live."""
        for work in works:
            if work.claim.job() is None:
                self._adopt(work)
        recorded = [(work, job) for work in works if (job := work.claim.job())]
        for (work, job), look in zip(recorded, self.executor.probe([job["job"] for _, job in recorded]), strict=True):
            work.number, work.tries = job["attempt"], job.get("tries", 1)
            if look.state == "over":
                self._left(work, job["job"])
            else:
                work.record = job["job"]
                self.watch.attempt(work.stage, work.number, job["job"], attached=True)
        return bool(works)

    def _left(self, work: Work, record: JobRecord) -> None:
        """The attempt of a driver before this one is over: only what it lost counts on, since a new command is a new start."""
        lost = work.claim.exit(work.number) is None and (ending := self.executor.verdict(record)).lost
        if lost and work.tries >= self.executor.attempts:
            self._fail(work, ending.words, f"lost {work.tries} times, and executor.attempts allows no more")
        work.tries = work.tries if lost else 0
        work.claim.forget()

    def _adopt(self, work: Work) -> None:
        """A driver died between its intent and its record: find out what the executor knows of it."""
        intent = work.claim.intent()
        record = intent and self.executor.find(intent["name"], intent["index"], intent["kind"])
        if intent is None or record is None:
            if intent:  # a command outlives who gave it: what it submits may yet come
                write_atomic(work.claim.attempt(intent["attempt"]) / "intent.json", canonical(intent))
            work.claim.forget()
        else:
            Claim(work.claim.folder).record({"attempt": intent["attempt"], "tries": intent["tries"], "job": record})

    def _start(self, works: Sequence[Work], pending: dict[str, Work]) -> bool:
        """Begin new attempts, as many as the executor has free slots for, those of one verb together."""
        free = self.executor.slots - sum(work.record is not None for work in pending.values())
        batch = [work for work in works if work.stage.verb == works[0].stage.verb][: max(free, 0)]
        if not batch:
            return False
        for work in batch:
            work.number = work.claim.attempts() + 1
            work.tries += 1
        name = "ratchet-" + digest([[work.stage.identity, work.number] for work in batch])[:20]
        for index, work in enumerate(batch):
            work.claim.write_spec({**work.stage.spec(), "store": self.store.spec})
            work.claim.attempt(work.number).mkdir(parents=True, exist_ok=True)
            work.claim.intend({"attempt": work.number, "tries": work.tries, "kind": self.executor.kind, "name": name, "index": index})
        self.in_hand()
        records = self.executor.submit([self.job(work.stage.identity, work.number) for work in batch], name)
        for work, record in zip(batch, records, strict=True):
            work.claim.record({"attempt": work.number, "tries": work.tries, "job": record})
            work.record = record
        for work, record in zip(batch, records, strict=True):
            self.watch.attempt(work.stage, work.number, record, attached=False)
        self.executor.release(records)
        return True

    def _follow(self, pending: dict[str, Work]) -> bool:
        """See what became of the jobs; a job's own last word comes before anything its executor could say."""
        running = [work for work in pending.values() if work.record]
        ended = [work for work in running if (said := work.claim.exit(work.number)) and said["state"] != INTERRUPTED]
        asked = [work for work in running if work not in ended]
        looks = self.executor.probe([work.record for work in asked if work.record]) if asked else []
        held = [work for work, look in zip(asked, looks, strict=True) if look.state == "held"]
        if held:
            self.executor.release([work.record for work in held if work.record])
        for work, look in zip(asked, looks, strict=True):
            if look.words != work.words:
                work.words = look.words
                self.watch.seen(work.stage, look.words)
            if look.state == "over":
                ended.append(work)
            elif work.tries + look.begun - 1 > self.executor.attempts:
                self.executor.cancel([work.record or {}])
                self._fail(work, f"begun {work.tries + look.begun - 1} times", "preempted or requeued too often")
        for work in ended:
            if self._settle(work):
                del pending[work.stage.identity]
        return bool(ended)

    def _settle(self, work: Work) -> bool:
        """A job is over: collect what it published, or say how it failed; False if another attempt is to be started."""
        deadline = time.monotonic() + self.executor.grace_s
        said = work.claim.exit(work.number)
        while not (manifest := self.store.find(work.stage.identity)):
            if said is not None and said["state"] == NEVER_RELEASED:
                work.tries -= 1
                return self._again(work)
            if (said is not None and said["state"] != INTERRUPTED) or time.monotonic() > deadline:
                return self._ended(work, said)
            time.sleep(0.05)
            said = work.claim.exit(work.number)
        self._collect(work, manifest)
        return True

    def _ended(self, work: Work, said: dict[str, Any] | None) -> bool:
        """A job ended without publishing."""
        if said is not None and said["state"] != INTERRUPTED:
            self._fail(work, said["state"], said["reason"], said.get("exit_code", 1))
        ending = self.executor.verdict(work.record or {})
        if not ending.lost:
            self._fail(work, ending.words, said["reason"] if said else "it ended without publishing and without a word", log=ending.log)
        if work.tries >= self.executor.attempts:
            self._fail(work, ending.words, f"lost {work.tries} times, and executor.attempts allows no more", log=ending.log)
        self.watch.lost(work.stage, work.number, ending.words)
        return self._again(work)

    def _again(self, work: Work) -> bool:
        work.claim.forget()
        work.record = None
        return False

    def _collect(self, work: Work, manifest: Manifest) -> None:
        work.claim.forget()
        for given_up in work.claim.folder.glob("attempts/*/intent.json"):
            late = json.loads(given_up.read_text())
            self.executor.find(late["name"], late["index"], late["kind"])  # ends what came after all: it is still held
            given_up.unlink()
        for left in (self.store.state / "drafts").glob(f"{work.stage.identity}.*"):  # of attempts that were killed
            shutil.rmtree(left, ignore_errors=True)
        self.watch.published(work.stage, manifest, reused=False)
        self._told.add(id(work.stage))
        work.lock.release()

    def _fail(self, work: Work, state: str, reason: str, exit_code: int = 1, *, log: Path | None = None) -> NoReturn:
        """Raise what became of an attempt, with the end of its log and of what its executor printed, if that is another `log`."""
        own = work.claim.attempt(work.number) / "log"
        printed = "\n".join(text for text in (tail(own), tail(log, 5) if log else "") if text)
        error = StageFailed(
            work.stage.title,
            state=state,
            reason=reason,
            exit_code=exit_code,
            log_tail=printed if printed.strip() != reason.strip() else "",
            log_path=str(own),
            next="mend the cause and give the same command again: everything that is published stays",
        )
        work.claim.forget()
        self.watch.failed(work.stage, work.number, error)
        raise error

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
