"""The ledger: in order, whole, and comparable."""

import os
import threading
from pathlib import Path

import pytest

from ratchet.errors import CorruptArtifact, RunHeld
from ratchet.infra.ledger import Ledger, results


@pytest.fixture
def ledger(root: Path) -> Ledger:
    return Ledger(root / "ledger")


def test_events_come_back_in_the_order_they_were_appended(ledger: Ledger) -> None:
    for n in range(12):
        ledger.append("stage" if n % 2 else "published", n=n)
    assert list(range(12)) == [event["n"] for event in ledger]
    assert list(range(12)) == [event["n"] for event in Ledger(ledger.folder)]
    assert list(range(1, 13)) == [event["number"] for event in ledger]


def test_a_ledger_that_is_not_there_has_no_events(ledger: Ledger) -> None:
    assert [] == list(ledger)


def test_a_driver_goes_on_where_the_one_before_it_ended(ledger: Ledger) -> None:
    assert [1, 2, 3] == [Ledger(ledger.folder).append(kind)["number"] for kind in ("run", "driver", "driver")]


def test_an_append_costs_the_same_however_long_the_ledger_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.append("run")
    listed = []
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder))
    for _ in range(20):
        ledger.append("stage")
    monkeypatch.undo()
    assert [] == listed
    assert list(range(1, 22)) == [event["number"] for event in Ledger(ledger.folder)]


def test_an_event_that_is_half_written_is_not_there(ledger: Ledger) -> None:
    ledger.append("run")
    (ledger.folder / ".0123456789abcdef").write_text('{"kind":"dri')
    assert ["run"] == [event["kind"] for event in Ledger(ledger.folder)]


def test_an_event_that_cannot_be_read_is_named(ledger: Ledger) -> None:
    for kind in ("run", "driver"):
        ledger.append(kind)
    (ledger.folder / "000001.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"000001.json cannot be read"):
        list(Ledger(ledger.folder))


def flushes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names that are flushed from now on, together with which others."""
    seen: list[list[str]] = []
    monkeypatch.setattr("ratchet.infra.ledger.sync_all", lambda paths: seen.append([path.name for path in paths]))
    return seen


def test_an_event_becomes_durable_with_the_next_that_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = flushes(monkeypatch)
    ledger.append("stage", flush=False)
    ledger.append("attempt", flush=False)
    assert [] == seen
    ledger.append("published")
    assert [["000001.json", "000002.json", "000003.json", "ledger"]] == seen
    assert [0, 0, 0, 3] == [event["settled"] for event in [*ledger, ledger.append("finished")]]


@pytest.mark.parametrize("torn", [(3,), (3, 4), (4, 5), (3, 5), (5,), (3, 4, 5)])
def test_what_a_power_failure_tore_was_never_appended(ledger: Ledger, torn: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last that was flushed is event 2; of the three after it a disk may have kept any."""
    for kind, flush in (("run", True), ("driver", True), ("stage", False), ("attempt", False), ("published", True)):
        ledger.append(kind, flush=flush)
    for number in torn:
        (ledger.folder / f"{number:06d}.json").write_bytes(b"")
    left = [number for number in range(1, 6) if number not in torn]
    assert left == [event["number"] for event in Ledger(ledger.folder)]
    seen, after = flushes(monkeypatch), Ledger(ledger.folder)
    added = after.append("driver")["number"]
    assert [*left, added] == [event["number"] for event in Ledger(ledger.folder)]
    assert {f"{number:06d}.json" for number in left if number > 2} <= {name for names in seen for name in names}, (
        "left in the cache by the dead driver"
    )
    (ledger.folder / "000002.json").write_bytes(b"")
    with pytest.raises(CorruptArtifact, match=r"000002.json cannot be read"):
        list(Ledger(ledger.folder))


def made(ledger: Ledger, verb: str, identity: str, digest: str | None, **more: object) -> None:
    ledger.append("stage", round=1, verb=verb, ordinal=0, cell=None, identity=identity)
    if digest:
        ledger.append("published", identity=identity, digest=digest, **more)


def test_results_are_what_was_made_without_times_and_attempts(root: Path) -> None:
    one, other = Ledger(root / "one"), Ledger(root / "other")
    made(one, "train", "i", "d", seconds=1.0)
    other.append("driver", process={"pid": 1})
    made(other, "train", "i", None)
    other.append("attempt", identity="i", attempt=2)
    other.append("published", identity="i", digest="d", seconds=9.0)
    assert [(1, "train", 0, "", "i", "d")] == results(one) == results(other)


def test_results_of_a_run_with_a_hole_say_so(ledger: Ledger) -> None:
    made(ledger, "train", "i", None)
    assert [(1, "train", 0, "", "i", None)] == results(ledger)


def test_results_take_the_last_identity_at_a_place(ledger: Ledger) -> None:
    made(ledger, "train", "old", "d")
    made(ledger, "train", "new", "e")
    assert [(1, "train", 0, "", "new", "e")] == results(ledger)


def test_of_two_writers_the_second_to_take_a_number_is_told_so(ledger: Ledger) -> None:
    """A driver that stood still, was taken over, and wakes up: whatever it was about to say is not said."""
    ledger.append("run")
    after = Ledger(ledger.folder)
    after.append("driver")
    with pytest.raises(RunHeld, match=r"another driver wrote event 2 of (?s:.*)nothing that is published is lost"):
        ledger.append("stage")
    after.append("stage")
    assert ["run", "driver", "stage"] == [event["kind"] for event in Ledger(ledger.folder)]
    assert [] == [path for path in ledger.folder.iterdir() if path.name.startswith(".")]


def test_of_many_writers_at_once_one_a_number_gets_through(root: Path) -> None:
    told: list[str] = []

    def write(name: str) -> None:
        try:
            while True:
                Ledger(root / "ledger").append("stage", by=name)
                told.append(name)
                if len(told) > 60:
                    return
        except RunHeld:
            return

    Ledger(root / "ledger").append("run")
    threads = [threading.Thread(target=write, args=(f"writer {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = list(Ledger(root / "ledger"))
    assert list(range(1, len(events) + 1)) == [event["number"] for event in events]
    assert sorted(told) == sorted(event["by"] for event in events[1:])


def test_a_ledger_of_before_is_read_and_gone_on_with(ledger: Ledger) -> None:
    ledger.folder.mkdir()
    (ledger.folder / "000001-run.json").write_text('{"kind":"run","number":1}')
    (ledger.folder / "000002-driver.json").write_text('{"kind":"driver","number":2}')
    assert 3 == ledger.append("stage")["number"]
    assert ["run", "driver", "stage"] == [event["kind"] for event in Ledger(ledger.folder)]
