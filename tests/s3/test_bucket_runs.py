"""A run's ledger and lease in a bucket: one truth and one driver among machines that share nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ratchet.infra.bucket_lease as leases
from ratchet.errors import InputError, RunHeld
from ratchet.infra.bucket_errors import StoreAway
from ratchet.infra.bucket_lease import BucketLease
from ratchet.infra.ledger import Ledger
from ratchet.infra.runs import RunFolder
from ratchet.infra.s3_store import S3Store
from ratchet.infra.stores import S3, enter, held, known_runs, recorded, refresh, store_of
from tests.s3.conftest import Store
from tests.s3.proxy import Proxy
from tests.toys.drive import wait_until

NAME = "nightly/2030"


def follower(store: S3Store, name: str = NAME) -> Ledger:
    ledger = Ledger(store.state.parent / name / "ledger")
    ledger.follow(store.runs.ledger(name), store.bucket.uri)
    return ledger


def kinds(ledger: Ledger) -> list[str]:
    return [event["kind"] for event in ledger]


# the ledger


def test_what_one_machine_writes_another_reads_and_goes_on_with(machine: Store) -> None:
    first = follower(machine("one"))
    for kind in ("run", "driver", "stage"):
        first.append(kind)
    second = follower(machine("other"))
    assert list(first) == list(second)
    assert 4 == second.append("driver")["number"]
    first.catch_up()
    assert ["run", "driver", "stage", "driver"] == kinds(first)


def test_of_two_machines_the_second_to_take_a_number_is_told_so(machine: Store) -> None:
    """Whatever their clocks, folders and leases say: the bucket lets one through."""
    first = follower(machine("one"))
    first.append("run")
    second = follower(machine("other"))
    second.append("driver", by="second")
    with pytest.raises(RunHeld, match=r"another driver wrote event 2"):
        first.append("stage", by="first")
    assert ["run", "driver"] == kinds(follower(machine("third")))


@pytest.mark.parametrize("kind", ["lost", "500", "torn", "reset", "409 ConditionalRequestConflict"])
def test_an_event_is_written_once_whatever_happens_on_the_way(machine: Store, proxy: Proxy, kind: str) -> None:
    ledger = follower(machine("one"))
    for number in range(4):
        proxy.next("PUT", "ledger/", kind)
        ledger.append("stage", n=number)
    assert list(range(4)) == [event["n"] for event in follower(machine("other"))]


def test_an_event_that_the_bucket_did_not_take_did_not_happen(machine: Store, proxy: Proxy) -> None:
    ledger = follower(machine("one", patience_s=0.2))
    ledger.append("run")
    proxy.away = True
    with pytest.raises(StoreAway):
        ledger.append("driver")
    proxy.away = False
    assert ["run"] == kinds(ledger) == kinds(follower(machine("other")))


def test_a_driver_that_died_between_the_bucket_and_its_copy_left_nothing_out(machine: Store) -> None:
    ledger = follower(machine())
    ledger.append("run")
    ledger.append("driver")
    (ledger.folder / "000002.json").unlink()
    assert ["run", "driver"] == kinds(follower(machine()))


@pytest.mark.parametrize("torn", [2, 3])
def test_a_copy_that_a_power_failure_tore_is_made_whole_from_the_bucket(machine: Store, torn: int) -> None:
    ledger = follower(machine())
    for kind, flush in (("run", True), ("stage", False), ("published", True)):
        ledger.append(kind, flush=flush)
    (ledger.folder / f"{torn:06d}.json").write_bytes(b"")
    again = follower(machine())
    assert ["run", "stage", "published"] == kinds(again)
    assert 4 == again.append("driver")["number"]


def test_a_copy_of_a_run_that_was_deleted_and_begun_anew_elsewhere_is_put_aside(machine: Store) -> None:
    old = follower(machine("one"))
    for kind in ("run", "driver", "stage"):
        old.append(kind)
    other = machine("other")
    other.runs.delete(NAME)
    new = follower(other)
    new.append("run", anew=True)
    again = follower(machine("one"))
    assert [event["number"] for event in new] == [event["number"] for event in again] == [1]
    assert 3 == len(list(next(again.folder.parent.glob("ledger.stale-*")).iterdir()))


def test_a_run_that_the_store_knows_nothing_of_is_not_taken_for_new(machine: Store) -> None:
    store = machine()
    Ledger(store.state.parent / NAME / "ledger").append("run")
    with pytest.raises(InputError, match=r"made with another store, or was deleted there(?s:.*)another --name"):
        follower(store)


# a run in a store


@pytest.fixture
def run(root: Path) -> RunFolder:
    return RunFolder(root / "one", NAME)


def test_a_run_keeps_to_the_store_that_it_began_with(settings: S3, run: RunFolder, root: Path, uri: str) -> None:
    spec = {"_target_": "ratchet.infra.stores.S3", **vars(settings)}
    enter(run, spec)
    run.ledger.append("run", config={"store": spec})
    run.ledger.append("driver", operations={"store": {**spec, "patience_s": 7}})
    assert 7 == (recorded(run) or {})["patience_s"]
    assert uri == store_of(RunFolder(run.root, NAME)).spec["uri"]
    for wrong in (None, {"_target_": "ratchet.infra.stores.Local"}, {**spec, "uri": "s3://elsewhere/x"}):
        with pytest.raises(InputError, match=f"the run {NAME} is kept in {uri}(?s:.*)store.uri={uri}"):
            enter(RunFolder(run.root, NAME), wrong)
    far = RunFolder(root / "other", NAME)
    assert not far.exists()
    enter(far, spec)
    assert list(run.ledger) == list(far.ledger)


def test_a_run_on_the_disk_does_not_move_into_a_bucket(settings: S3, run: RunFolder) -> None:
    run.ledger.append("run", config={})
    with pytest.raises(InputError, match=r"kept in the local store(?s:.*)give store=local"):
        enter(run, {"_target_": "ratchet.infra.stores.S3", **vars(settings)})


def test_every_run_in_the_bucket_is_known_from_any_machine(settings: S3, root: Path) -> None:
    spec = {"_target_": "ratchet.infra.stores.S3", **vars(settings)}
    for name in ("a", "group/b"):
        run = RunFolder(root / "one", name)
        enter(run, spec)
        run.ledger.append("run", config={"store": spec})
    on_disk = RunFolder(root / "other", "c")
    on_disk.ledger.append("run", config={})
    found = known_runs(root / "other", store_of(RunFolder(root / "one", "a")).spec and enter(RunFolder(root / "other", "a"), spec))
    assert [("a", 1), ("c", 1), ("group/b", 1)] == [(run.name, len(list(run.ledger))) for run in found]


def test_who_only_looks_sees_what_is_done_elsewhere_and_is_not_kept_waiting(
    settings: S3, root: Path, machine: Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"_target_": "ratchet.infra.stores.S3", **vars(settings)}
    here, there = RunFolder(root / "one", NAME), RunFolder(root / "other", NAME)
    enter(here, spec)
    here.ledger.append("run", config={"store": spec})
    enter(there, spec)
    told: list[str] = []
    assert (None, ["run"]) == (refresh(there, told.append), kinds(there.ledger))
    with machine("one").runs.lease(NAME):
        here.ledger.append("driver", operations={})
        assert f"process {os.getpid()}" in (refresh(RunFolder(root / "other", NAME), told.append) or "")
    assert ["run", "driver"] == kinds(there.ledger)
    assert [] == told
    monkeypatch.setattr("ratchet.infra.stores.GLANCE_S", 0.2)
    proxy.away = True
    assert refresh(RunFolder(root / "other", NAME), told.append) is None
    assert f"{NAME} is shown as this machine last knew it: {settings.uri} at {proxy.url} does not answer" in told[0]
    on_disk = RunFolder(root / "other", "on disk")
    on_disk.ledger.append("run", config={})
    assert refresh(on_disk, told.append) is None
    assert 1 == len(told)


# the lease


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BEAT_S", 0.1), ("TTL_S", 1.5), ("LONG_S", 60.0), ("POLL_S", 0.05)):
        monkeypatch.setattr(leases, name, value)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From here on this process is on another machine."""

    def move(where: str = "another machine") -> None:
        monkeypatch.setattr(leases, "space", lambda: where)

    return move


@pytest.fixture
def ended() -> Iterator[list[BucketLease]]:
    """Leases that a test leaves to themselves."""
    found: list[BucketLease] = []
    yield found
    for lease in found:
        lease.release()


def stand_still(lease: BucketLease) -> None:
    """As under SIGSTOP, or with its machine."""
    lease._ended.set()
    lease._beating.join()


def test_a_run_is_held_by_one_and_free_once_he_lets_go(machine: Store) -> None:
    first, second = machine("one").runs, machine("other").runs
    with first.lease(NAME) as lease:
        time.sleep(0.3)
        lease.check()
        with pytest.raises(RunHeld, match=rf"the run {NAME} is held by process {os.getpid()} on (?s:.*)command: "):
            second.lease(NAME)
        assert f"process {os.getpid()}" in (second.holder(NAME) or "")
    assert second.holder(NAME) is None
    with second.lease(NAME):
        pass


def test_of_many_that_take_a_run_at_once_one_has_it(machine: Store, ended: list[BucketLease], proxy: Proxy) -> None:
    proxy.rate, proxy.kinds = 0.2, ("500", "lost", "reset")
    stores = [machine(f"machine {number}") for number in range(6)]

    def take(store: S3Store) -> None:
        try:
            ended.append(store.runs.lease(NAME, watch=False))
        except RunHeld:
            return

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(ended)


HOLD = """
import json, sys, time
from pathlib import Path
from ratchet.infra.stores import open_store
import ratchet.infra.bucket_lease as leases
leases.BEAT_S = 0.1
lease = open_store(json.loads(sys.argv[1]), Path(sys.argv[2])).runs.lease(sys.argv[3])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(machine: Store) -> Iterator["subprocess.Popen[str]"]:
    """A driver in a process of its own."""
    import json

    store = machine("one")
    command = [sys.executable, "-P", "-c", HOLD, json.dumps(store.spec), str(store.state), NAME]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "held\n" == process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_a_driver_that_was_killed_here_is_known_to_be_gone_at_once(machine: Store, holder: "subprocess.Popen[str]") -> None:
    runs = machine("other").runs
    with pytest.raises(RunHeld, match=f"process {holder.pid}"):
        runs.lease(NAME)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with runs.lease(NAME):
        assert time.monotonic() - began < 1.0, "nothing had to be watched"


def test_a_driver_that_was_killed_elsewhere_is_watched_for_its_time(
    machine: Store, holder: "subprocess.Popen[str]", elsewhere: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere()
    runs = machine("other").runs
    with pytest.raises(RunHeld):
        runs.lease(NAME)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with runs.lease(NAME):
        assert 1.4 < time.monotonic() - began < 6
    assert f"the run {NAME} was last in the hands of process {holder.pid}" in capsys.readouterr().err


def test_a_driver_that_stood_still_finds_out_that_it_was_taken_over(
    machine: Store, elsewhere: Any, ended: list[BucketLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine("one").runs.lease(NAME)
    stand_still(first)
    elsewhere()
    second = machine("other").runs.lease(NAME)
    ended.append(second)
    assert not first.lost, "it slept through it"
    with pytest.raises(RunHeld, match=r"was taken over: of this driver nothing had been heard(?s:.*)nothing that is published is lost"):
        first.check()
    assert first.lost
    first.release()
    second.check()
    assert machine("third").runs.holder(NAME), "the loser's last word changed nothing"


def test_a_bucket_that_is_away_for_a_while_costs_nobody_his_run(machine: Store, proxy: Proxy) -> None:
    with machine("one").runs.lease(NAME) as lease:
        proxy.away = True
        time.sleep(2.0)
        lease.check()
        proxy.away = False
        beat = lease.turn.beat
        wait_until(lambda: lease.turn.beat > beat, "the next beat")
        lease.check()


def test_a_driver_that_lets_go_while_the_bucket_is_away_is_not_kept_waiting(machine: Store, proxy: Proxy) -> None:
    lease = machine("one").runs.lease(NAME)
    proxy.away = True
    began = time.monotonic()
    lease.release()
    assert time.monotonic() - began < 3


def test_a_lease_of_long_ago_by_the_servers_clock_is_nobodys(machine: Store, elsewhere: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine("one").runs.lease(NAME)
    stand_still(first)
    elsewhere()
    time.sleep(1.1)
    monkeypatch.setattr(leases, "LONG_S", 1.0)
    monkeypatch.setattr(leases, "TTL_S", 30.0)
    began = time.monotonic()
    with machine("other").runs.lease(NAME):
        assert time.monotonic() - began < 5


def test_a_run_in_a_bucket_is_held_on_this_machine_and_among_machines(settings: S3, root: Path, elsewhere: Any) -> None:
    spec = {"_target_": "ratchet.infra.stores.S3", **vars(settings)}
    here, there = RunFolder(root / "one", NAME), RunFolder(root / "other", NAME)
    near, far = enter(here, spec), enter(there, spec)
    with held(here, near) as check:
        here.ledger.append("run", config={"store": spec})
        check()
        with pytest.raises(RunHeld), held(RunFolder(root / "one", NAME), near):
            pass
        with pytest.raises(RunHeld), held(there, far):
            pass
    with held(there, far):
        assert ["run"] == kinds(there.ledger), "what was written before he let go is here"
    shutil.rmtree(root / "one")
