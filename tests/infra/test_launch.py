"""The launch protocol: whoever dies when, no stage is worked at twice, and none is lost."""

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ratchet.artifacts import Artifact
from ratchet.errors import InputError, StageFailed
from ratchet.flows.job import perform_here
from ratchet.infra.claims import Claim, Lock
from ratchet.infra.executors import Ending, Inline, Job, JobRecord, Local, Look, State
from ratchet.infra.launch import Launcher, tail
from ratchet.stages import Stage
from tests.toys.drive import Die, Warm, last_words, wait_until
from tests.toys.parts import Coin, Sums, Toss
from tests.toys.two import TWO, Told, launcher

ONE = TWO[0]


class Hands:
    """An executor whose jobs do their work when they are looked at for the second time."""

    kind = "hands"
    outlives_machine = True
    grace_s = 0.5
    begun = 1

    def __init__(self, slots: int = 1, *, works: bool = True, loses: bool = False, attempts: int = 3, findable: JobRecord | None = None) -> None:
        self.slots, self.works, self.loses, self.attempts, self.findable = slots, works, loses, attempts, findable
        self.names: list[str] = []
        self.sought: list[tuple[str, int]] = []
        self.cancelled: set[int] = set()
        self.jobs: dict[int, Job] = {}
        self.released: set[int] = set()
        self.looks: dict[int, int] = {}
        self.most = 0

    def submit(self, jobs: Sequence[Job], name: str) -> list[JobRecord]:
        first = len(self.jobs)
        self.jobs.update(enumerate(jobs, start=first))
        self.names.append(name)
        return [{"pid": first + index} for index in range(len(jobs))]

    def find(self, name: str, index: int) -> JobRecord | None:
        self.sought.append((name, index))
        return self.findable

    def release(self, records: Sequence[JobRecord]) -> None:
        self.released |= {record["pid"] for record in records}

    def cancel(self, records: Sequence[JobRecord]) -> None:
        self.cancelled |= {record["pid"] for record in records}

    def probe(self, records: Sequence[JobRecord]) -> list[Look]:
        self.most = max(self.most, len(records))
        return [Look(state=self.look(record["pid"]), begun=self.begun) for record in records]

    def look(self, pid: int) -> State:
        self.looks[pid] = self.looks.get(pid, 0) + 1
        if self.looks[pid] == 1:
            return "running"
        if self.works and self.looks[pid] == 2:
            self.jobs[pid].call()
        return "over"

    def verdict(self, record: JobRecord) -> Ending:
        return Ending(words="killed by signal 9", lost=self.loses)


def told(made: Launcher) -> list[tuple[Any, ...]]:
    assert isinstance(made.watch, Told)
    return made.watch.events


def claim(made: Launcher, stage: Stage) -> Claim:
    return Claim(made.store.state / "claims" / stage.identity)


def test_a_claim_torn_by_a_power_failure_is_of_a_job_that_is_gone(root: Path) -> None:
    made = launcher(root, Local())
    claim(made, ONE).attempt(1).mkdir(parents=True)
    for name in ("spec.json", "intent.json", "job.json"):
        (claim(made, ONE).folder / name).write_bytes(b"")
    made.make([ONE])
    assert [("attempt", ONE.title, 2), ("published", ONE.title)] == told(made)


@pytest.mark.parametrize(("hands", "flushed"), [(Inline(), False), (Local(), False), (Hands(), True)])
def test_claims_are_flushed_if_their_jobs_outlive_a_power_failure(root: Path, monkeypatch: pytest.MonkeyPatch, hands: Any, flushed: bool) -> None:
    names: set[str] = set()

    def note(descriptor: int) -> None:
        names.add(Path(f"/proc/self/fd/{descriptor}").readlink().name.strip(".").partition(".json")[0])

    monkeypatch.setattr(os, "fsync", note)
    launcher(root, hands).make([ONE])
    assert names.isdisjoint({"spec", "intent", "job"}) is not flushed
    assert {"manifest", "records", "made"} <= names or isinstance(hands, Local), "what is published always is; local's job does it itself"


def test_a_stage_is_made_once_and_reused_after(root: Path) -> None:
    first, second = launcher(root, Hands()), launcher(root, Hands())
    made = first.make([ONE])
    assert made == second.make([ONE])
    assert [("attempt", ONE.title, 1), ("published", ONE.title)] == told(first)
    assert [("reused", ONE.title)] == told(second)
    assert {} == second.executor.today.jobs  # type: ignore[attr-defined]


def test_the_same_stage_asked_twice_at_once_is_made_once(root: Path) -> None:
    made = launcher(root, Hands(slots=2))
    assert 2 == len(made.make([ONE, ONE]))
    assert 1 == sum(event[0] == "attempt" for event in told(made))


def a_sharded_stage(made: Launcher) -> Stage:
    problems, policy = (m.artifact for m in made.make([Stage(verb="propose", component=Sums(), inputs={}), create(made)]))
    return Stage(verb="synthesize", component=Toss(), inputs={"policy": policy, "problems": problems}, seed=1)


def create(made: Launcher) -> Stage:
    (examples,) = made.make([Stage(verb="propose", component=Sums(split="worked"), inputs={})])
    return Stage(verb="create", component=Coin(), inputs={"examples": examples.artifact}, seed=1)


def test_a_sharded_stage_is_its_shards_in_order_and_their_sums(root: Path) -> None:
    made = launcher(root, Hands(slots=2))
    stage = a_sharded_stage(made)
    (manifest,) = made.make([stage])
    assert [s.identity for s in stage.shards()] == [part["identity"] for part in manifest.parts]
    assert (48, [20, 20, 8], 48) == (manifest.rows, [part["rows"] for part in manifest.parts], manifest.metrics["rollouts"])
    ids = [rollout.problem_id for rollout in made.store.open(stage.identity).records()]
    assert [f"train-{n}" for n in range(12) for _ in range(4)] == ids


def test_a_lost_shard_alone_is_made_again(root: Path) -> None:
    made = launcher(root, Hands())
    stage = a_sharded_stage(made)
    (before,) = made.make([stage])
    shard = stage.shards()[1]
    made.store.quarantine(stage.identity)
    made.store.quarantine(shard.identity)
    again = launcher(root, Hands())
    assert [before] == again.make([stage])
    assert [("attempt", shard.title, 2)] == [event for event in told(again) if event[0] == "attempt"]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_more_jobs_run_than_there_are_slots(root: Path, slots: int) -> None:
    executor = Hands(slots=slots)
    made = launcher(root, executor)
    made.make([a_sharded_stage(made)])
    assert slots == executor.most


class Fails:
    def propose(self) -> Any:
        sys.stdout.write("looking for a colour\n")
        raise InputError("no such colour")


def test_a_job_that_fails_says_so_once_and_is_tried_anew_by_the_next_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sums, "propose", Fails.propose)
    made = launcher(root, Hands())
    with pytest.raises(
        StageFailed, match=r"(?s)round 0 · propose failed \(failed\): no such colour.*end of its log.*looking for.*whole log: .*/attempts/1/log"
    ) as failed:
        made.make([ONE])
    assert 2 == failed.value.exit_code, "what the user can mend is answered as such"
    assert [("attempt", ONE.title, 1), ("failed", ONE.title, 1, "failed")] == told(made)
    monkeypatch.undo()
    again = launcher(root, Hands())
    again.make([ONE])
    assert ("attempt", ONE.title, 2) == told(again)[0]


def test_a_job_that_ends_without_a_word_is_described_by_its_executor(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hands, "grace_s", 0.05)
    with pytest.raises(StageFailed, match=r"failed \(killed by signal 9\): it ended without publishing"):
        launcher(root, Hands(works=False)).make([ONE])


def test_a_result_that_becomes_visible_late_is_collected(root: Path) -> None:
    executor = Hands(works=False)
    made = launcher(root, executor)
    late = threading.Timer(0.3, lambda: perform_here(made.store, ONE.identity, 1))
    late.start()
    made.make([ONE])
    late.join()
    assert [("attempt", ONE.title, 1), ("published", ONE.title)] == told(made)


def left_behind(made: Launcher, stage: Stage, pid: int) -> None:
    """What a driver leaves that died with a job under way."""
    claim(made, stage).write_spec(stage.spec())
    claim(made, stage).attempt(1).mkdir(parents=True)
    claim(made, stage).record({"attempt": 1, "job": {"pid": pid, "kind": "hands"}})


def test_a_job_that_outlived_its_driver_is_attached_to(root: Path) -> None:
    executor = Hands()
    made = launcher(root, executor)
    left_behind(made, ONE, 0)
    executor.jobs[0] = made.job(ONE.identity, 1)
    made.make([ONE])
    assert [("attached", ONE.title, 1), ("published", ONE.title)] == told(made)
    assert (1, None) == (claim(made, ONE).attempts(), claim(made, ONE).job())


def test_a_job_that_died_with_its_driver_is_replaced(root: Path) -> None:
    executor = Hands()
    made = launcher(root, executor)
    left_behind(made, ONE, 7)
    executor.looks[7] = 9
    made.make([ONE])
    assert [("attempt", ONE.title, 2), ("published", ONE.title)] == told(made)


def test_a_job_that_published_after_its_driver_died_is_collected(root: Path) -> None:
    made = launcher(root, Hands())
    left_behind(made, ONE, 0)
    perform_here(made.store, ONE.identity, 1)
    made.make([ONE])
    assert [("reused", ONE.title)] == told(made)


def test_a_job_that_was_left_held_is_let_go(root: Path) -> None:
    class Held(Hands):
        def look(self, pid: int) -> State:
            return "held" if pid not in self.released else super().look(pid)

    executor = Held()
    made = launcher(root, executor)
    left_behind(made, ONE, 0)
    executor.jobs[0] = made.job(ONE.identity, 1)
    made.make([ONE])
    assert {0} == executor.released


def test_a_stage_that_another_driver_has_in_hand_is_waited_for_and_not_made(root: Path) -> None:
    executor = Hands()
    made = launcher(root, executor)
    claim(made, ONE).write_spec(ONE.spec())
    other = Lock(claim(made, ONE).folder / "lock")
    assert other.try_acquire()

    def finish() -> None:
        time.sleep(0.2)
        perform_here(made.store, ONE.identity, 1)
        other.release()

    threading.Thread(target=finish).start()
    made.make([ONE])
    assert [("waiting", ONE.title)] == told(made)[:1]
    assert {} == executor.jobs


def test_a_stage_whose_driver_died_while_it_was_waited_for_is_made(root: Path) -> None:
    made = launcher(root, Hands())
    other = Lock(claim(made, ONE).folder / "lock")
    assert other.try_acquire()
    threading.Timer(0.2, other.release).start()
    made.make([ONE])
    assert [("waiting", ONE.title), ("attempt", ONE.title, 1), ("published", ONE.title)] == told(made)


def test_drafts_of_killed_attempts_are_removed(root: Path) -> None:
    made = launcher(root, Hands())
    (made.store.draft(ONE.identity, "killed") / "half").write_text("")
    made.make([ONE])
    assert [] == list((root / ".ratchet" / "drafts").iterdir())


def test_two_artifacts_with_the_same_content_are_two(root: Path) -> None:
    made = launcher(root, Hands(slots=2))
    one, other = made.make([Stage(verb="propose", component=Sums(), inputs={}, seed=seed) for seed in (1, 2)])
    assert one.identity != other.identity
    assert one.digest == other.digest
    assert isinstance(one.artifact, Artifact)


@pytest.mark.parametrize(("text", "end"), [("", ""), ("a\nb\n", "a\nb"), ("x" * 20_000 + "\nlast", "last")])
def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path, text: str, end: str) -> None:
    (tmp_path / "log").write_text(text)
    assert tail(tmp_path / "log", 2).endswith(end)
    assert "" == tail(tmp_path / "none")


DEATHS = [
    *(("ratchet.infra.claims.Claim.write_spec", when) for when in ("before", "after")),
    *(("ratchet.infra.claims.Claim.intend", when) for when in ("before", "after")),
    *(("ratchet.infra.executors.Local._start", when) for when in ("before", "after")),
    *(("ratchet.infra.claims.Claim.record", when) for when in ("before", "after")),
    *(("ratchet.infra.executors.Local.release", when) for when in ("before", "after")),
    *(("ratchet.infra.claims.Claim.forget", when) for when in ("before", "after")),
]


@pytest.mark.parametrize(("at", "when"), DEATHS, ids=lambda value: value.rpartition(".")[2])
def test_a_driver_may_die_at_any_step_of_the_protocol(ratchet: Warm, root: Path, at: str, when: str) -> None:
    """Before submit, between submit and record, between record and release, after: the next driver ends with each job done once."""
    dead = ratchet(root=root, main="tests.toys.two.main", die=Die(at, n=2, when=when))
    assert -9 == dead.code, dead.err
    done = ratchet(root=root, main="tests.toys.two.main")
    assert 0 == done.code, done.err
    wait_until(lambda: 2 == sum(words.count("published") for words in last_words(root).values()), "the jobs' last words")
    for words in last_words(root).values():
        assert 1 == words.count("published")
        assert {"published", "never released", "none"} >= set(words)
    released = at.endswith(("release", "forget")) and when == "after"
    assert not released or "attempt" not in done.out, "a job that was let go is never started again"


class LosesTheFirst(Hands):
    """Loses its first jobs, and does the work of the next."""

    def __init__(self, lost: int, **more: Any) -> None:
        super().__init__(loses=True, **more)
        self.lost = lost

    def look(self, pid: int) -> State:
        return "over" if pid < self.lost else super().look(pid)


def test_an_attempt_that_is_lost_is_begun_again_and_not_failed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hands, "grace_s", 0.01)
    made = launcher(root, LosesTheFirst(2, attempts=3))
    made.make([ONE])
    lost = [("lost", ONE.title, n, "killed by signal 9") for n in (1, 2)]
    assert [("attempt", ONE.title, 1), lost[0], ("attempt", ONE.title, 2), lost[1], ("attempt", ONE.title, 3), ("published", ONE.title)] == told(made)


def test_a_stage_that_is_lost_too_often_fails_and_the_next_command_begins_to_count_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hands, "grace_s", 0.01)
    for first in (1, 4):
        made = launcher(root, LosesTheFirst(9, attempts=3))
        with pytest.raises(StageFailed, match=r"lost 3 times, and executor\.attempts allows no more"):
            made.make([ONE])
        assert [first, first + 1, first + 2] == [event[2] for event in told(made) if event[0] == "attempt"]


def test_what_was_lost_under_drivers_that_died_counts_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hands, "grace_s", 0.01)
    made = launcher(root, LosesTheFirst(9, attempts=3))
    left_behind(made, ONE, 0)
    claim(made, ONE).record({"attempt": 1, "tries": 3, "job": {"pid": 0, "kind": "hands"}})
    with pytest.raises(StageFailed, match="lost 3 times"):
        made.make([ONE])


def test_a_job_that_is_requeued_for_ever_is_cancelled_and_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hands, "begun", 4)
    monkeypatch.setattr(Hands, "look", lambda self, pid: "running")
    executor = Hands(attempts=3)
    with pytest.raises(StageFailed, match=r"begun 4 times.*requeued too often"):
        launcher(root, executor).make([ONE])
    assert {0} == executor.cancelled


def intended(made: Launcher, stage: Stage) -> None:
    """What a driver leaves that died while it submitted."""
    claim(made, stage).write_spec(stage.spec())
    claim(made, stage).attempt(1).mkdir(parents=True)
    claim(made, stage).intend({"attempt": 1, "tries": 1, "kind": "hands", "name": "ratchet-x", "index": 2})


def test_a_job_that_was_submitted_and_not_recorded_is_found_by_its_name(root: Path) -> None:
    executor = Hands(findable={"pid": 0})
    made = launcher(root, executor)
    intended(made, ONE)
    executor.jobs[0] = made.job(ONE.identity, 1)
    made.make([ONE])
    assert [("ratchet-x", 2)] == executor.sought
    assert [("attached", ONE.title, 1), ("published", ONE.title)] == told(made)


def test_an_intent_of_which_nothing_came_is_replaced(root: Path) -> None:
    made = launcher(root, Hands())
    intended(made, ONE)
    made.make([ONE])
    assert [("attempt", ONE.title, 2), ("published", ONE.title)] == told(made)
    assert not claim(made, ONE).begun()


def test_shards_go_out_together_and_no_two_batches_share_a_name(root: Path) -> None:
    executor = Hands(slots=2)
    made = launcher(root, executor)
    stage = a_sharded_stage(made)
    before = len(executor.names)
    made.make([stage])
    assert 2 == len(executor.names) - before, "three shards, two slots"
    assert len(executor.names) == len(set(executor.names))


def test_two_drivers_that_need_the_same_stages_at_once_make_each_once(ratchet: Warm, root: Path) -> None:
    going = [ratchet.start(root=root, main="tests.toys.two.main") for _ in range(3)]
    done = [one.wait() for one in going]
    assert [0, 0, 0] == [one.code for one in done]
    assert 2 == sum(one.out.count("attempt ") for one in done)
    assert [["published"], ["published"]] == list(last_words(root).values())
