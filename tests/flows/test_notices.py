"""A notice is sent until somebody took it, and no longer."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ratchet.flows import notices
from ratchet.flows.notices import Notices
from ratchet.flows.schedules import Book, Firing, Schedule
from tests.toys.drive import wait_until

WEEKLY = Schedule(name="group/weekly", words=(), cron="0 6 * * mon", on_failure="slack-webhook/team", on_finish="email/me")
FIRING = Firing(schedule="group/weekly", due=datetime(2030, 1, 1, tzinfo=UTC), words=(), run="group/weekly/2030", flow_run="f", begun=12.0)


class Channel:
    """Stands for Prefect's blocks: what they were told, and whether they take it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.error: Exception | None = None

    def __call__(self, root: Path, url: str, *words: str) -> None:
        self.told.append(words)
        if self.error:
            raise self.error


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    found = Channel()
    monkeypatch.setattr(notices, "_tell", found)
    return found


def sent(mine: Notices, channel: Channel, count: int) -> None:
    mine.tick("http://nowhere/api")
    wait_until(lambda: len(channel.told) == count and not (mine._thread and mine._thread.is_alive()), "the thread")


def test_each_end_goes_to_its_block_once_and_one_that_nobody_asked_for_to_none(root: Path, channel: Channel) -> None:
    mine = Notices(Book(root), say=pytest.fail)
    mine.owe(WEEKLY, FIRING, "failed", "exit code 1: no memory", "http://page")
    mine.owe(WEEKLY, FIRING, "failed", "exit code 1: no memory", "http://page")
    mine.owe(WEEKLY, replace(FIRING, begun=13.0), "finished", "finished", "http://page")
    mine.owe(WEEKLY, replace(FIRING, begun=14.0), "cancelled", "cancelled", "http://page")
    mine.owe(replace(WEEKLY, on_failure=None), replace(FIRING, begun=15.0), "failed", "exit code 1", "http://page")
    mine.owe(None, replace(FIRING, begun=16.0), "failed", "exit code 1", "http://page")
    sent(mine, channel, 2)
    failed = ("slack-webhook/team", "ratchet: group/weekly/2030 failed", "group/weekly/2030: exit code 1: no memory\nhttp://page")
    finished = ("email/me", "ratchet: group/weekly/2030 finished", "group/weekly/2030: finished\nhttp://page")
    assert [failed, finished] == channel.told
    mine._next = 0.0
    mine.tick("http://nowhere/api")
    assert 2 == len(channel.told)


def test_what_a_channel_did_not_take_is_sent_again_also_by_the_next_serve_and_said_once(
    root: Path, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "AGAIN_S", 0.0)
    said: list[str] = []
    channel.error = ConnectionError("no route to slack")
    mine = Notices(Book(root), say=said.append)
    mine.owe(WEEKLY, FIRING, "failed", "exit code 1", "")
    sent(mine, channel, 1)
    sent(mine, channel, 2)
    assert ["ratchet: slack-webhook/team was not told: no route to slack"] == said
    channel.error = None
    sent(Notices(Book(root), say=said.append), channel, 3)
    assert (1, []) == (len(set(channel.told)), list(mine.folder.glob("*")))


def test_after_a_day_a_notice_is_given_up_aloud(root: Path, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    channel.error = ConnectionError("gone")
    mine = Notices(Book(root), say=said.append)
    mine.owe(WEEKLY, FIRING, "failed", "exit code 1", "")
    now = time.time()
    monkeypatch.setattr(notices.time, "time", lambda: now + notices.STALE_S + 1)
    sent(mine, channel, 1)
    assert "ratchet: group/weekly/2030 failed: slack-webhook/team is given up" == said[-1]
    assert [] == list(mine.folder.glob("*"))


def test_a_channel_that_hangs_holds_up_nothing(root: Path, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_tell", lambda *_: time.sleep(1))
    mine = Notices(Book(root), say=pytest.fail)
    mine.owe(WEEKLY, FIRING, "failed", "exit code 1", "")
    began = time.monotonic()
    for _ in range(3):
        mine.tick("http://nowhere/api")
    assert 0.5 > time.monotonic() - began
    assert mine._thread
    mine._thread.join()
