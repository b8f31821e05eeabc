"""The day that the page on operations walks through, command by command, at a real Prefect server and in a real MLflow."""

import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from ratchet.flows.summary import summary_of
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.tracking import local_address, prepare
from tests.flows.site import LIMIT_S, Site, at_work, webhook
from tests.toys.drive import TOYS, Done, Warm, wait_until

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
NIGHT = "nightly/2030-01-16T01-00-00Z"


def commands() -> list[str]:
    """What the page says, in its order."""
    day = re.search(r"^## A day\n(.*?)^## ", PAGE.read_text(), re.M | re.S)
    assert day is not None
    return re.findall(r"^    (ratchet .*)$", day[1], re.M)


class Day:
    """Gives the page's commands, with toy parts for the real ones and what the night was really called."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder, self.book = site, folder, folder / "book"
        self.left, self.night = commands(), ""
        self.book.write_text("how to judge")

    def next(self, verb: str) -> list[str]:
        """The words of the page's next command, as they are given here."""
        command = self.left.pop(0).replace(NIGHT, self.night).replace("slack-webhook/team", "custom-webhook/here")
        words = shlex.split(command)[1:]
        assert verb == words[0], "the page goes another way"
        toys = {
            "schedule": [*TOYS, "tracker=mlflow", "verification=by_the_book", f"verification.file={self.book}"],
            "fork": TOYS[:2],
        }
        mine = {"training.steps=160": "training.gain=0.02", "nights.html": str(self.folder / "nights.html")}
        return [*(mine.get(word, word) for word in words), *toys.get(verb, [])]

    def gives(self, verb: str) -> Done:
        done = self.site.ratchet(*self.next(verb), root=self.site.root)
        assert 0 == done.code, done.err
        return done


@pytest.fixture
def day(memory: Path, ratchet: Warm, tmp_path: Path) -> Iterator[Day]:
    with at_work(memory, ratchet) as site:
        yield Day(site, tmp_path)


def test_the_day_goes_as_the_page_says(day: Day) -> None:
    site, told = day.site, list[bytes]()
    evening = day.next("schedule")
    without_block = [word for word in evening if word not in ("--on-failure", "custom-webhook/here")]
    done = site.ratchet(*without_block, root=site.root)
    assert (0, "nobody serves it on this machine yet" in done.out) == (done.code, True), done.err
    assert ["serve"] == day.next("serve")
    site.serve()
    webhook(site, told)
    assert 0 == site.ratchet(*evening, root=site.root).code, "the same again replaces it, now that Prefect has the channel"

    first = site.ended("nightly", site.press_run(deployment_of(site)))
    assert "finished" == first.ended

    day.book.rename(day.folder / "elsewhere")
    strike_two(site, evening)
    wait_until(lambda: len(site.done("nightly")) == 2, "the cron to fire, and its run to end", LIMIT_S)
    night = site.done("nightly")[1]
    assert ("failed", 1, 0) == (night.ended, night.code, night.due.second)
    wait_until(lambda: told, "the channel to be told", LIMIT_S)
    assert f"{night.run}: exit code 1: round 1 · verify".encode() in told[0], told
    day.night = night.run

    assert re.search(rf"nightly .*{night.run} +│ failed", day.gives("schedules").out)
    shown = day.gives("show").out
    assert re.search(r"round 1 · verify[^│]*│ \w+ +│ failed", shown), shown
    assert "FileNotFoundError" in day.gives("logs").out

    (day.folder / "elsewhere").rename(day.book)
    run = RunFolder(site.root, night.run)
    made = {row for row in results(run.ledger) if row[-1]}
    day.gives("resume")
    summary = summary_of(run)
    assert ("finished", [0, 1, 2, 3, 4]) == (summary.status, [row.round for row in summary.rounds])
    assert made < set(results(run.ledger))
    published = [event["identity"] for event in run.ledger if event["kind"] == "published"]
    assert len(published) == len(set(published)), "nothing was made twice"

    assert "round 4" in day.gives("compare").out
    across = day.gives("compare").out
    assert {True} == {name in across for name in (night.run, first.run)}
    assert night.run in (day.folder / "nights.html").read_text()

    assert summary.champion is not None
    assert f"round {summary.champion.round} of {night.run}" in day.gives("promote").out
    assert f"round {summary.champion.round} of {night.run}" == champion(site.root, "solver")

    day.gives("fork")
    longer = summary_of(RunFolder(site.root, "longer"))
    assert longer.forked
    assert (night.run, 2, "finished", 4) == (longer.forked["run"], longer.forked["round"], longer.status, longer.rounds[-1].round)
    assert "longer" in day.gives("compare").out

    look_at_the_pages(site, day.next("ui"))
    day.gives("unschedule")
    assert [] == site.book.schedules()
    assert [] == day.left, "the page says more"


def deployment_of(site: Site) -> str:
    """The id of the schedule's deployment, once Prefect has it."""

    def found() -> list[dict[str, str]]:
        return list(site.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["nightly"]}}}))

    wait_until(found, "the deployment", LIMIT_S)
    return found()[0]["id"]


def strike_two(site: Site, evening: list[str]) -> None:
    """Have the schedule fire at the next minute that Prefect can still plan for, by the same zone's clock."""
    due = (datetime.now(UTC) + timedelta(seconds=75)).replace(second=0).astimezone(ZoneInfo("Europe/Berlin"))
    if due - datetime.now(UTC) > timedelta(seconds=70):
        due -= timedelta(seconds=60)
    words = [f"{due.minute} {due.hour} * * *" if word == "0 2 * * *" else word for word in evening]
    assert words != evening
    assert 0 == site.ratchet(*words, root=site.root).code


def champion(root: Path, model: str) -> str:
    prepare()
    from mlflow import MlflowClient

    return str(MlflowClient(local_address(root)).get_model_version_by_alias(model, "champion").description).partition(":")[0]


def look_at_the_pages(site: Site, words: list[str]) -> None:
    """`ratchet ui` says two addresses that answer, and ends when asked to."""
    log = site.root / "ui.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-P", "-m", "ratchet.flows.cli", *words, "--root", str(site.root)], stdout=out, stderr=out)
    try:
        wait_until(lambda: "Ctrl-C" in log.read_text() or process.poll() is not None, "the pages", LIMIT_S)
        said = dict(line.split()[:2] for line in log.read_text().splitlines() if line.split()[0] in ("MLflow", "Prefect"))
        assert {"MLflow", "Prefect"} == said.keys(), log.read_text()
        for url in said.values():
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert 200 == answer.status
    finally:
        process.send_signal(signal.SIGINT)
    assert 0 == process.wait(20)
