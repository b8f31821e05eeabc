"""What a schedule is, when it is due, and what its firings are called: all that needs no server."""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from ratchet.errors import InputError
from ratchet.flows.deployments import deployment
from ratchet.flows.schedules import Book, Firing, Schedule, missed
from ratchet.flows.serve import ATTEMPTS, Desk, Going, said
from ratchet.infra.lease import Lease
from ratchet.infra.runs import RunFolder
from tests.toys.drive import HOUSE, TOYS, Warm

NIGHTLY = Schedule(name="nightly", words=["recipe=star"], cron="30 2 * * *", tz="Europe/Berlin", since="2030-01-01T00:00:00+00:00")
OFTEN = Schedule(name="often", every_s=10, since="2030-01-01T00:00:00+00:00")


def at(words: str) -> datetime:
    return datetime.fromisoformat(words).replace(tzinfo=UTC)


def test_an_interval_is_counted_from_when_it_was_asked_for() -> None:
    assert None is OFTEN.due_before(at("2030-01-01 00:00:10"))
    assert at("2030-01-01 00:00:10") == OFTEN.due_before(at("2030-01-01 00:00:11"))
    assert at("2030-01-01 00:00:10") == OFTEN.due_before(at("2030-01-01 00:00:20"))
    assert at("2030-01-01 00:00:20") == OFTEN.due_after(at("2030-01-01 00:00:10"))
    assert at("2030-01-01 00:00:10") == OFTEN.due_after(at("2029-01-01"))


def test_cron_follows_the_clock_on_the_wall_in_its_zone() -> None:
    assert at("2030-01-15 01:30") == NIGHTLY.due_after(at("2030-01-14 12:00"))
    assert at("2030-07-15 00:30") == NIGHTLY.due_after(at("2030-07-14 12:00"))
    assert at("2030-07-15 00:30") == NIGHTLY.due_before(at("2030-07-15 12:00"))
    assert None is NIGHTLY.due_before(at("2030-01-01 01:00")), "nothing was due before there was a schedule"


def test_only_the_latest_that_is_not_written_down_is_missed() -> None:
    now = at("2030-01-01 01:00:05")
    assert at("2030-01-01 01:00") == missed(OFTEN, None, now)
    last = Firing(schedule="often", due=at("2030-01-01 00:59:50"), words=[], run="x", flow_run="f")
    assert at("2030-01-01 01:00") == missed(OFTEN, last, now)
    assert None is missed(OFTEN, replace(last, due=at("2030-01-01 01:00")), now)


def test_a_firing_is_a_run_of_its_own_with_a_seed_of_its_own_and_the_same_again(root: Path) -> None:
    one, again, other = (
        Firing.first(NIGHTLY, at(due), NIGHTLY.words, "f", root) for due in ("2030-01-15 01:30", "2030-01-15 01:30", "2030-01-16 01:30")
    )
    assert "nightly/2030-01-15T01-30-00Z" == one.run
    assert one.command(root) == again.command(root)
    assert one.words[:-1] == other.words[:-1] == ["recipe=star"]
    assert one.words[-1].startswith("seed=")
    seeds = {
        Firing.first(schedule, one.due, words, "f", root).words[-1] for schedule in (NIGHTLY, replace(NIGHTLY, seed=1)) for words in ([], ["seed=2"])
    }
    assert 3 == len(seeds), "a given seed decides, before the config's"


def test_a_schedule_that_continues_adds_rounds_to_what_its_run_has(root: Path) -> None:
    schedule = replace(NIGHTLY, continues=2)
    first = Firing.first(schedule, at("2030-01-15 01:30"), [], "f", root)
    assert ("nightly", ["rounds=2"]) == (first.run, first.words)
    ledger = RunFolder(root, "nightly").ledger
    ledger.append("advanced", round=2)
    assert ["rounds=4"] == Firing.first(schedule, at("2030-01-16 01:30"), [], "f", root).words
    with pytest.raises(InputError, match="rounds=9"):
        Firing.first(schedule, at("2030-01-17 01:30"), ["rounds=9"], "f", root)


def test_the_book_has_what_was_written_and_tells_open_firings_from_done(root: Path) -> None:
    book = Book(root)
    group = replace(NIGHTLY, name="group/seed=1")
    for schedule in (NIGHTLY, group):
        book.put(schedule)
    assert [group, NIGHTLY] == book.schedules()
    firing = book.save(Firing.first(group, at("2030-01-15 01:30"), ["recipe=star"], "f", root))
    assert ([firing], [firing], []) == (book.open(), book.open(group.name), book.open("nightly"))
    ended = book.save(replace(firing, ended="finished", code=0))
    assert ([], ended, ended) == (book.open(), book.firing(group.name, firing.due), book.last(group.name))
    assert [firing] == [book.save(firing)] == book.open()
    book.remove(group.name)
    assert [NIGHTLY] == book.schedules()
    assert firing == book.firing(group.name, firing.due), "what it fired is not forgotten"
    with pytest.raises(InputError, match="nightly"):
        book.remove("weekly")


def test_a_firing_lives_while_its_process_does_or_somebody_has_its_run(root: Path) -> None:
    from ratchet.infra.executors import this_process

    firing = Firing.first(NIGHTLY, at("2030-01-15 01:30"), [], "f", root)
    assert not firing.lives(root)
    assert replace(firing, process=this_process()).lives(root)
    assert not replace(firing, process={**this_process(), "start": "another process had this number"}).lives(root)
    with Lease.take(RunFolder(root, firing.run)):
        assert firing.lives(root)
    assert not firing.lives(root)


def test_a_deployment_has_the_zone_one_place_and_a_form_for_the_words() -> None:
    made = deployment(NIGHTLY, "tag")
    assert {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "day_or": True} == made["schedules"][0]["schedule"]
    assert (1, {"collision_strategy": "CANCEL_NEW"}) == (made["concurrency_limit"], made["concurrency_options"])
    assert {"collision_strategy": "ENQUEUE"} == deployment(replace(NIGHTLY, overlap="queue"), "tag")["concurrency_options"]
    assert {"overrides": ["recipe=star"]} == made["parameters"]
    assert ["recipe=star"] == made["parameter_openapi_schema"]["properties"]["overrides"]["default"]


BAD = [
    (["--cron", "0 2 * *"], "--cron has a wrong value", "minute hour day month weekday"),
    (["--cron", "0 99 * * *"], "--cron has a wrong value", "0 99"),
    (["--every", "0"], "--every has a wrong value"),
    (["--every", "60", "--tz", "Europe/Nowhere"], "--tz has a wrong value", "Europe/Nowhere"),
    (["--every", "60", "--continue", "0"], "--continue has a wrong value"),
    (["--every", "60", "--continue", "2", "rounds=3"], "rounds=3", "leave that out"),
    (["--every", "60", "name=mine"], "name=mine"),
    (["--every", "60", "--on-failure", "team"], "names no Prefect block", "slack-webhook/team"),
    (["--every", "60", "sed=1"], "there is no key 'sed'", "did you mean seed?"),
    (["--every", "60", "synthesis.samples=many"], "synthesis.samples has a wrong value"),
]


@pytest.mark.parametrize(("words", "phrases"), [(words, phrases) for words, *phrases in BAD], ids=lambda value: " ".join(value))
def test_what_cannot_be_scheduled_is_refused_when_it_is_asked_for(ratchet: Warm, root: Path, words: list[str], phrases: list[str]) -> None:
    done = ratchet("schedule", "nightly", *TOYS, *words, root=root)
    assert (2, False) == (done.code, "Traceback" in done.err), done.err
    assert [] == [phrase for phrase in phrases if phrase not in done.err], done.err
    assert [] == Book(root).schedules()


def test_schedules_are_listed_replaced_and_forgotten(ratchet: Warm, root: Path) -> None:
    said = ratchet("schedule", "nightly", "--cron", "0 2 * * *", "--tz", "Asia/Tokyo", *TOYS, "recipe=star", root=root)
    assert (0, True) == (said.code, f"ratchet serve --root {root}" in said.out), said.err
    assert 0 == ratchet("schedule", "nightly", "--every", "3600", "--overlap", "queue", *TOYS, "recipe=star", "seed=7", root=root).code
    (listed,) = ratchet("schedules", "--json", root=root).json()
    assert ("nightly", None, 3600, "queue", 7, None) == tuple(listed[key] for key in ("name", "cron", "every_s", "overlap", "seed", "last"))
    assert timedelta(0) < datetime.fromisoformat(listed["next"]) - datetime.now(UTC) <= timedelta(hours=1)
    assert "every 3600 s" in ratchet("schedules", root=root).out
    assert 0 == ratchet("unschedule", "nightly", root=root).code
    assert [] == ratchet("schedules", "--json", root=root).json()
    assert 2 == ratchet("unschedule", "nightly", root=root).code


def test_what_is_on_disk_is_what_was_asked_for(ratchet: Warm, root: Path) -> None:
    ratchet("schedule", "nightly", "--every", "60", *TOYS, "recipe=star", root=root)
    kept = json.loads((root / ".ratchet" / "schedules" / "nightly.json").read_text())
    assert ["experiment=toy", "recipe=star"] == kept["words"]
    assert Path(kept["config_dir"]).is_absolute()


def test_the_documentation_s_commands_do_what_it_says(ratchet: Warm, root: Path) -> None:
    """`ratchet serve` itself is what `test_serve.py` is about."""
    section = (HOUSE / "docs" / "operations.md").read_text().partition("## Schedule\n")[2].partition("\n## ")[0]
    lines = [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("    ratchet ")]
    assert {"schedule", "serve", "schedules", "unschedule"} == {words[1] for words in lines}
    for words in sorted((words[1:] for words in lines if words[1] != "serve"), key=lambda words: words[0]):
        done = ratchet(*words, root=root)
        assert 0 == done.code, done.err
    assert ["champion", "weekly"] == [schedule.name for schedule in Book(root).schedules()]


class Page:
    """A Prefect that only remembers what it is told."""

    def __init__(self) -> None:
        self.deployments, self.told = {"often": "d"}, list[tuple[str, str]]()
        self.paused, self.late, self.added = set[str](), list[dict[str, Any]](), list[datetime]()

    def due(self, moment: datetime) -> list[dict[str, Any]]:
        return self.late

    def add(self, schedule: str, due: datetime, words: object, key: str) -> str:
        self.added.append(due)
        return key

    def page(self, id: str) -> str:
        return f"http://page/{id}"

    def name(self, id: str, name: str) -> None:
        """Nobody looks."""

    def set(self, id: str, type: str, *, name: str | None = None, **_: object) -> None:
        self.told.append((id, name or type))


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_what_is_due_while_one_is_at_work_is_passed_over_or_waits_as_asked(root: Path, overlap: str) -> None:
    schedule, page = replace(OFTEN, overlap=overlap), Page()
    desk = Desk(Book(root), attended=at("2030-01-01"), _office=cast(Any, page), _schedules=[schedule])
    desk.book.save(Firing.first(schedule, at("2030-01-01 00:00:10"), [], "first", root))
    due = {"deployment_id": "d", "expected_start_time": "2030-01-01T00:00:20+00:00"}
    desk._claim({**due, "id": "second", "auto_scheduled": True})
    desk._claim({**due, "id": "by hand", "auto_scheduled": False, "expected_start_time": "2030-01-01T00:00:21.5+00:00"})
    passed = desk.book.firing("often", at("2030-01-01 00:00:20"))
    if overlap == "queue":
        assert ([], None) == (page.told, passed)
    else:
        assert [("second", "Skipped")] == page.told, "what somebody asked for by hand waits"
        assert passed is not None
        assert "passed over: often/2030-01-01T00-00-10Z was at work when it was due" == passed.ended


def test_a_firing_whose_process_dies_again_and_again_fails_in_the_end(root: Path) -> None:
    page = Page()
    desk = Desk(Book(root), _office=cast(Any, page), _schedules=[OFTEN])
    for attempts in (ATTEMPTS - 1, ATTEMPTS):
        firing = desk.book.save(replace(Firing.first(OFTEN, at("2030-01-01 00:00:10"), [], "f", root), attempts=attempts))
        desk._conclude("f", Going(firing))
    assert [("f", "CRASHED"), ("f", "FAILED")] == page.told
    assert [] == desk.book.open()


@pytest.mark.parametrize(("how", "knows", "made_up"), [("run-once", False, 1), ("run-once", True, 0), ("skip", True, 0), ("paused", False, 0)])
def test_of_what_was_missed_the_latest_is_made_up_for_or_none(root: Path, how: str, knows: bool, made_up: int) -> None:
    """Whether Prefect knows of it (nobody served) or not (its server was away too); never of a schedule that was paused on its page."""
    schedule, page = replace(OFTEN, missed="skip" if how == "skip" else "run-once"), Page()
    page.paused = {"often"} if how == "paused" else set()
    due = {"deployment_id": "d", "auto_scheduled": True}
    page.late = [{**due, "id": f"at {s}", "expected_start_time": f"2030-01-01T00:00:{s}+00:00"} for s in (10, 20, 30)] if knows else []
    desk = Desk(Book(root), attended=at("2030-01-01 00:00:35"), _office=cast(Any, page), _schedules=[schedule])
    desk._make_up()
    assert [at("2030-01-01 00:00:30")] * made_up == page.added
    for one in page.late if how == "skip" else page.late[:2]:
        desk._claim(one)
    missed_ones = ["at 10", "at 20", "at 30"] if how == "skip" else ["at 10", "at 20"] if knows else []
    assert [(id, "Missed") for id in missed_ones] == page.told


def test_a_second_flow_run_of_a_firing_that_ended_begins_nothing(root: Path) -> None:
    page = Page()
    desk = Desk(Book(root), _office=cast(Any, page), _schedules=[OFTEN])
    desk.book.save(replace(Firing.first(OFTEN, at("2030-01-01 00:00:10"), [], "first", root), ended="finished"))
    desk._claim({"deployment_id": "d", "id": "second", "auto_scheduled": True, "expected_start_time": "2030-01-01T00:00:10+00:00"})
    assert [("second", "Skipped")] == page.told
    assert [] == desk.book.open()


def test_a_failure_is_told_by_its_complaint_alone(root: Path) -> None:
    log = root / "log"
    for text, told in (
        ("ratchet: of an attempt before\n", ""),
        ("starting …\nratchet: seed has a wrong value\n  got:     'x'\n", "seed has a wrong value\n  got:     'x'"),
        ("Traceback (most recent call last):\n  File …\nNameError: name\n", "NameError: name"),
        ("Killed\n", "Killed"),
    ):
        start = log.stat().st_size if log.exists() else len(text)
        with log.open("a") as file:
            file.write(text)
        assert told == said(log, start)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd's own judgement needs systemd-analyze")
def test_systemd_reads_the_unit_without_a_complaint(tmp_path: Path) -> None:
    (tmp_path / ".local" / "bin").mkdir(parents=True)
    command = tmp_path / ".local" / "bin" / "ratchet"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit, broken = HOUSE / "infra" / "systemd" / "ratchet-serve.service", tmp_path / "broken.service"
    broken.write_text(unit.read_text().replace("RestartSec=", "RestartSecs="))
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}

    def complaints(path: Path) -> str:
        words = ["systemd-analyze", "--user", "--man=no", "verify", str(path)]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=60).stderr

    assert "Unknown key 'RestartSecs'" in complaints(broken)
    assert "" == complaints(unit)
