"""Schedules fire by themselves against a real Prefect server, and whatever is killed, every firing ends once, as it would have."""

import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from ratchet.flows import deployments, prefect_server
from ratchet.flows.schedules import Firing
from ratchet.infra.runs import RunFolder
from tests.flows.site import LIMIT_S, Site, at_work, kill, webhook
from tests.flows.test_prefect_server import processes_of
from tests.toys.drive import TOYS, Warm, wait_until

SLOW = "synthesis.seconds=0.03"
"""Makes a run last some seconds."""
LONG = "synthesis.seconds=0.5"

AGES_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def turns(root: Path, run: str) -> list[tuple[float, float]]:
    """When each driver of a run had it in hand, from its first word to its last."""
    events = list(RunFolder(root, run).ledger)
    starts = [number for number, event in enumerate(events) if event["kind"] == "driver"]
    return [(events[a]["at"], events[b - 1]["at"]) for a, b in pairwise([*starts, len(events)])]


@pytest.fixture(scope="module")
def site(memory: Path, ratchet: Warm) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, at_work(memory, ratchet) as site:
        patch.setenv(prefect_server.GRACE, "90")  # a killed `serve` finds its server again
        site.serve()
        yield site


def test_a_schedule_fires_by_itself_through_the_death_of_its_server_and_of_serve_and_never_twice_at_a_time(site: Site) -> None:
    site.schedule("tick", "--every", "4")

    def finished(since: datetime) -> list[Firing]:
        return [one for one in site.done("tick") if one.due > since and one.ended == "finished"]

    wait_until(lambda: len(finished(AGES_AGO)) >= 2, "two firings", LIMIT_S)

    for server in processes_of(site.root):
        os.kill(server, signal.SIGKILL)
    now = datetime.now(UTC)
    wait_until(lambda: finished(now), "a firing that was due after the server's death", LIMIT_S)
    assert "does not answer any more" in site.words()

    wait_until(lambda: site.book.open("tick"), "one to be at work", LIMIT_S)
    (last,) = site.book.open("tick")
    site.end(signal.SIGTERM)
    wait_until(lambda: not last.lives(site.root) and time.time() > last.due.timestamp() + 9, "its run to end, and two to be missed", LIMIT_S)
    site.serve()
    wait_until(lambda: finished(last.due), "what is made up for", LIMIT_S)
    site.unschedule("tick")
    made_up = finished(last.due)[0]
    gone = {one.ended for one in site.done("tick") if last.due < one.due < made_up.due}
    assert gone <= {"passed over: nobody served when it was due", f"passed over: {last.run} was at work when it was due"}
    assert (made_up.due - last.due).seconds >= 8
    assert "finished" == site.ended("tick", last.flow_run).ended

    wait_until(lambda: not site.book.open("tick"), "the last firing", LIMIT_S)
    done = finished(AGES_AGO)
    assert {0} == {(one.due - done[0].due).seconds % 4 for one in done}
    assert len(done) == len({RunFolder(site.root, one.run).opening()["config"]["seed"] for one in done})
    spans = sorted(span for one in done for span in turns(site.root, one.run))
    assert len(done) <= len(spans)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    for one in (done[0], done[-1]):
        assert ("Completed", "finished") == site.state(one.flow_run)
        assert one.run == site.ask("GET", f"/flow_runs/{one.flow_run}")["name"]


def test_a_run_goes_on_when_its_server_is_killed_and_ends_in_prefect_too(site: Site) -> None:
    pressed = site.press_run(site.schedule("through", "--every", "36000", SLOW))
    site.begun("through")
    for server in processes_of(site.root):
        os.kill(server, signal.SIGKILL)
    assert ("finished", 1) == (site.ended("through", pressed).ended, site.ended("through", pressed).attempts)
    assert ("Completed", "finished") == site.state(pressed)


def test_words_from_prefects_form_are_checked_like_the_command_lines_and_retry_on_its_page_is_the_same_run(site: Site, tmp_path: Path) -> None:
    told: list[bytes] = []
    own = Path(shutil.copytree(TOYS[1], tmp_path / "own"))
    deployment = site.schedule(
        "edited", "--every", "36000", "--on-failure", (block := webhook(site, told)), "--on-finish", block, "--config-dir", str(own)
    )
    with pytest.raises(urllib.error.HTTPError, match="409"):
        site.press_run(deployment, "no override")
    pressed = site.press_run(deployment, "experiment=toy", "recipe=rest_em", "rounds=1", "task=mine")
    failed = site.ended("edited", pressed)
    state, message = site.state(pressed)
    assert ("failed", 2, "Failed") == (failed.ended, failed.code, state)
    assert "there is no task called 'mine'" in message
    wait_until(lambda: told, "the block to be told", LIMIT_S)
    assert f"{failed.run}: exit code 2: there is no task called 'mine'".encode() in told[0]
    assert f"/runs/flow-run/{pressed}".encode() in told[0]
    shutil.copy(own / "task" / "sums.yaml", own / "task" / "mine.yaml")
    site.press_retry(pressed)
    wait_until(lambda: site.done("edited", pressed) and site.done("edited", pressed)[0].code == 0, "the retry to end", LIMIT_S)
    assert ("Completed", failed.run) == (site.state(pressed)[0], site.done("edited")[0].run)
    assert [failed.words] == [one.words for one in site.done("edited")]
    wait_until(lambda: len(told) > 1, "the block to be told of its end, too", LIMIT_S)
    assert (2, f"{failed.run} finished".encode() in told[1]) == (len(told), True)


def test_cancel_on_prefects_page_ends_the_run_and_ratchet_resume_goes_on_with_it(site: Site) -> None:
    pressed = site.press_run(site.schedule("stopped", "--every", "36000", SLOW))
    run = site.begun("stopped").run
    site.ask("POST", f"/flow_runs/{pressed}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert "cancelled" == site.ended("stopped", pressed).ended
    assert "Cancelled" == site.state(pressed)[0]
    assert not any(event["kind"] == "finished" for event in RunFolder(site.root, run).ledger)
    assert 0 == site.ratchet("resume", run, "--no-prefect", root=site.root, env={"RATCHET_TEST_HASTE": "1"}).code
    site.press_retry(pressed)
    wait_until(lambda: site.state(pressed)[0] == "Completed", "Prefect to see that it is finished", LIMIT_S)
    published = [event["identity"] for event in RunFolder(site.root, run).ledger if event["kind"] == "published"]
    assert len(published) == len(set(published)), "nothing was made twice"


def test_a_killed_run_is_brought_back_and_so_is_one_whose_serve_was_killed_too(site: Site) -> None:
    """First `serve` is killed and the run goes on; then the run is, without a hand by automation and `serve`; then both at once."""
    pressed = site.press_run(site.schedule("killed", "--every", "36000", LONG))
    first = site.begun("killed")
    site.end(signal.SIGKILL)
    assert first.process_lives()
    site.serve()
    kill(first)
    second = site.begun("killed", attempt=2)
    assert (first.run, first.words) == (second.run, second.words)
    site.end(signal.SIGKILL)
    kill(second)
    site.serve(RATCHET_TEST_HASTE="1")
    ended = site.ended("killed", pressed)
    assert ("finished", 0, 3) == (ended.ended, ended.code, ended.attempts)
    run = RunFolder(site.root, ended.run)
    assert (1, 1, 3) == tuple(sum(event["kind"] == kind for event in run.ledger) for kind in ("run", "finished", "driver"))
    states = [state["name"] for state in site.ask("GET", f"/flow_run_states/?flow_run_id={pressed}")]
    assert [2, 2] <= [states.count("Crashed"), states.count("AwaitingRetry")], states
    assert ["Pending", "Running", "Completed"] == states[-3:]
    assert ["killed"] == [one["name"] for one in site.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["killed"]}}})]


@pytest.mark.slow
def test_a_run_that_is_lost_with_its_machine_is_marked_and_scheduled_again_by_prefect_alone(site: Site) -> None:
    """Ten seconds without a heartbeat instead of ninety, and only Prefect's server lives."""
    site.end(signal.SIGTERM)
    site.serve(**{deployments.LOST_S: "10"})
    pressed = site.press_run(site.schedule("lost", "--every", "36000", LONG))
    firing = site.begun("lost")
    site.end(signal.SIGKILL)
    kill(firing)
    wait_until(lambda: "AwaitingRetry" == site.state(pressed)[0], "the automations to schedule it again", LIMIT_S)
    names = [state["name"] for state in site.ask("GET", f"/flow_run_states/?flow_run_id={pressed}")]
    assert ["Running", "Crashed", "AwaitingRetry"] == names[-3:]
    site.serve(RATCHET_TEST_HASTE="1")
    assert ("finished", 2) == (site.ended("lost", pressed).ended, site.ended("lost", pressed).attempts)
