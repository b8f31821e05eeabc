"""What no run needs goes, is said before, and is missed by nobody."""

import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ratchet.artifacts import Artifact
from ratchet.champions import Crowning
from ratchet.errors import CorruptArtifact
from ratchet.flows.collected import Sparing, collected
from ratchet.flows.gc import _kept_rounds
from ratchet.flows.summary import RoundSummary, RunSummary
from ratchet.infra.lease import Lease
from ratchet.infra.ledger import Ledger, results
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from ratchet.stages import Stage
from tests.toys.drive import TOYS, Die, Warm, wait_until
from tests.toys.parts import Judge, Keep, Toss

NAME = "mine"
WORDS = ("recipe=b_star", "rounds=4", "evaluation.samples=0")
SPARE = ("--keep-last", "1")


@pytest.fixture(scope="module")
def original(ratchet: Warm, memory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory) as root:
        assert 0 == ratchet.run(*WORDS, "--name", NAME, root=Path(root)).code
        yield Path(root)


@pytest.fixture
def finished(original: Path, root: Path) -> Path:
    """A root with a finished run."""
    return shutil.copytree(original, root, dirs_exist_ok=True)


def ledger(root: Path, name: str = NAME) -> Ledger:
    return RunFolder(root, name).ledger


def objects(root: Path) -> set[str]:
    return {folder.name for folder in (root / ".ratchet" / "objects").iterdir()}


def stages(root: Path, name: str = NAME) -> dict[str, dict[str, Any]]:
    return {event["title"]: event for event in ledger(root, name) if event["kind"] == "stage"}


def attempts(root: Path) -> Counter[str]:
    return Counter(event["title"] for event in ledger(root) if event["kind"] == "attempt")


def bytes_of(identities: set[str], root: Path) -> int:
    return sum(f.stat().st_size for i in identities for f in (root / ".ratchet/objects" / i).rglob("*") if f.is_file())


def test_without_yes_it_says_line_by_line_what_would_go_and_nothing_does(ratchet: Warm, finished: Path) -> None:
    before, events = objects(finished), len(list(ledger(finished)))
    done = ratchet("gc", NAME, *SPARE, root=finished)
    assert 0 == done.code, done.err
    assert (before, events) == (objects(finished), len(list(ledger(finished))))
    head, *lines, last, hint = done.out.splitlines()
    assert re.fullmatch(rf"{NAME}: keeps round 0, (round \d \(champion: best by its main metric\), )?round 4 \((last|champion: .*)\)", head)
    found = [re.fullmatch(r"  ([0-9a-f]{8})  (\w+) +([\d.]+ \w+)  (round \d · .*)", line) for line in lines]
    assert all(found), lines
    going = {identity for identity in before if identity[:8] in {match[1] for match in found if match}}
    assert len(found) == len(going)
    total = bytes_of(going, finished)
    assert f"would delete {len(going)} artifacts and 0 leftovers, {total / 1000:.1f} kB, of {finished}" == last
    assert "  next: add --yes" == hint


def test_what_a_run_needs_stays(ratchet: Warm, finished: Path) -> None:
    before, asked = objects(finished), stages(finished)
    assert 0 == ratchet("gc", NAME, *SPARE, "--yes", root=finished).code
    gone = before - objects(finished)
    assert gone
    rounds = {event["round"]: event for event in ledger(finished) if event["kind"] == "advanced"}
    best = max(rounds.values(), key=lambda event: (event["metrics"]["pass_at_1"], -event["round"]))["round"]
    kept = {0, best, 4}
    whole = {event["identity"] for event in asked.values() if event["round"] in kept}
    scores = [rounds[index]["metrics"]["pass_at_1"] for index in range(best)]
    before_it = {scores.index(max(scores))} if best else set()
    pointed = {pointer["identity"] for index in kept | before_it for pointer in rounds[index]["roles"].values()}
    small = {event["identity"] for event in asked.values() if event["verb"] in ("propose", "adjust", "evaluate")}
    assert set() == gone & (whole | pointed | small | {event["state"] for event in rounds.values()})
    others = [event for event in asked.values() if event["round"] not in kept and event["verb"] in ("synthesize", "verify", "select", "train")]
    assert {event["identity"] for event in others} - pointed - whole <= gone


def test_the_same_command_passes_by_what_is_gone(ratchet: Warm, finished: Path) -> None:
    expected, made = results(ledger(finished)), attempts(finished)
    assert 0 == ratchet("gc", *SPARE, "--yes", root=finished).code
    left = objects(finished)
    again = ratchet.run(*WORDS, "--name", NAME, root=finished)
    assert 0 == again.code, again.err
    assert (expected, made, left) == (results(ledger(finished)), attempts(finished), objects(finished))
    more = ratchet("resume", NAME, "rounds=5", "--no-prefect", root=finished)
    assert 0 == more.code, more.err
    fresh = attempts(finished) - made
    assert fresh
    assert all(title.startswith("round 5") for title in fresh), fresh


def test_what_is_needed_again_is_made_again_with_all_that_it_reads(ratchet: Warm, finished: Path) -> None:
    expected = results(ledger(finished))
    assert 0 == ratchet("gc", NAME, *SPARE, "--yes", root=finished).code
    before = attempts(finished)
    again = ratchet("retry", NAME, "--round", "2", "--stage", "train", "--no-prefect", root=finished)
    assert 0 == again.code, again.err
    assert "set aside: round 2 · train" in again.err, "although it was gone"
    assert expected == results(ledger(finished))
    made = {title.split(" · shard ")[0] for title in attempts(finished) - before}
    asked = stages(finished)
    read = {title for title in made if asked[title]["round"] == 2}
    assert {"round 2 · train", "round 2 · select"} <= read, "the training data had gone with it"
    unread = ("round 1 · synthesize · temperature", "round 1 · verify · temperature", "round 1 · evaluation")
    assert [] == [title for title in made if title.startswith(unread)], "nobody reads what was decided or reported on"


def test_a_plan_knows_what_is_gone(ratchet: Warm, finished: Path) -> None:
    assert 0 == ratchet("gc", NAME, *SPARE, "--yes", root=finished).code
    plan = ratchet("plan", *TOYS, *WORDS, "--name", NAME, root=finished)
    assert 0 == plan.code, plan.err
    assert " 0 to run" in plan.out
    assert "deleted by `gc`, digest" in plan.out


def test_what_another_run_refers_to_stays(ratchet: Warm, finished: Path) -> None:
    assert 0 == ratchet.run(*WORDS, "--name", "twin", root=finished).code
    before = objects(finished)
    done = ratchet("gc", NAME, *SPARE, "--yes", root=finished)
    assert before == objects(finished)
    assert re.search(r"\d+ more stay for other runs that refer to them\n", done.out)
    assert 0 == ratchet("gc", *SPARE, "--yes", root=finished).code
    assert objects(finished) < before, "neither needs them"
    for name in (NAME, "twin"):
        made = Counter(event["title"] for event in ledger(finished, name) if event["kind"] == "attempt")
        assert 0 == ratchet.run(*WORDS, "--name", name, root=finished).code
        assert made == Counter(event["title"] for event in ledger(finished, name) if event["kind"] == "attempt")


def test_a_fork_still_begins_from_what_it_took_over(ratchet: Warm, finished: Path) -> None:
    assert 0 == ratchet("fork", NAME, *TOYS[:2], "--round", "2", "--as", "branch", "seed=5", "rounds=3", "--no-prefect", root=finished).code
    assert 0 == ratchet("gc", *SPARE, "--yes", root=finished).code
    again = ratchet("resume", "branch", "rounds=4", "--no-prefect", root=finished)
    assert 0 == again.code, again.err


def test_a_run_that_is_held_is_not_touched(ratchet: Warm, finished: Path) -> None:
    before = objects(finished)
    with Lease.take(RunFolder(finished, NAME)):
        named = ratchet("gc", NAME, *SPARE, "--yes", root=finished)
        assert (3, before) == (named.code, objects(finished))
        everything = ratchet("gc", *SPARE, "--yes", root=finished)
        assert (0, before) == (everything.code, objects(finished))
        assert f"{NAME} is kept whole: the run {NAME} is held by process {os.getpid()}" in everything.out


def test_a_run_whose_job_is_at_work_is_not_touched(ratchet: Warm, root: Path) -> None:
    """The driver is dead, its job lives."""
    slow = ("recipe=rest_em", "rounds=0", "evaluation.samples=0", "executor=local", "synthesis.seconds=0.3", "synthesis.rows_per_shard=null")
    going = ratchet.start("run", *TOYS, *slow, "--name", NAME, "--no-prefect", root=root)
    wait_until(lambda: attempts(root)["round 0 · evaluation · synthesize"], "a job")
    os.kill(going.pid, 9)
    assert -9 == going.wait().code
    done = ratchet("gc", NAME, "--yes", root=root)
    assert 3 == done.code, done.out
    assert "is still at work" in done.err
    assert 0 == ratchet("cancel", NAME, root=root).code


def test_a_collection_that_is_cut_short_loses_nothing(ratchet: Warm, finished: Path) -> None:
    expected, made = results(ledger(finished)), attempts(finished)
    for when in ("before", "after"):
        die = Die("ratchet.infra.store.LocalStore.remove", n=3, when=when)
        assert -9 == ratchet("gc", NAME, *SPARE, "--yes", root=finished, die=die).code
        assert 0 == ratchet.run(*WORDS, "--name", NAME, root=finished).code
        assert (expected, made) == (results(ledger(finished)), attempts(finished))
    assert 0 == ratchet("gc", NAME, *SPARE, "--yes", root=finished).code
    assert "would delete 0 artifacts" in ratchet("gc", NAME, *SPARE, root=finished).out


def test_what_is_nobodys_goes_once_it_is_old(ratchet: Warm, finished: Path) -> None:
    store = LocalStore(state=finished / ".ratchet")
    old, young = "a" * 32, "b" * 32
    for identity in (old, young):
        store.publish(store.draft(identity, "1"), identity=identity, kind="rollouts")
    os.utime(store.object(old), (time.time() - 9e4, time.time() - 9e4))
    (store.draft("c" * 32, "1") / "half").write_text("text")
    store.publish(store.draft("d" * 32, "1"), identity="d" * 32, kind="rollouts")
    store.quarantine("d" * 32)
    done = ratchet("gc", "--keep-last", "9", "--yes", root=finished)
    assert 0 == done.code, done.err
    assert re.search(r"  aaaaaaaa .* an artifact that no run's ledger names\n", done.out)
    assert re.search(r"  cccccccc +4 bytes  an attempt that ended without publishing: .*/drafts/c", done.out)
    assert re.search(r"  dddddddd .* set aside by `retry`: .*/quarantine/d", done.out)
    assert "deleted 1 artifacts and 2 leftovers" in done.out
    assert {young} == objects(finished) & {old, young}
    assert [] == store.leftovers()


def test_a_run_without_an_ended_round_is_kept_whole(ratchet: Warm, root: Path) -> None:
    die = Die("ratchet.infra.ledger.Ledger.append", word="advanced")
    assert -9 == ratchet.run(*WORDS, "--name", NAME, root=root, die=die).code
    before = objects(root)
    done = ratchet("gc", NAME, "--yes", root=root)
    assert (0, before) == (done.code, objects(root))
    assert f"{NAME}: keeps all, since no round has ended" in done.out


def test_the_next_round_always_has_the_last_to_start_from(ratchet: Warm, finished: Path) -> None:
    done = ratchet("gc", "--keep-last", "0", root=finished)
    assert 2 == done.code
    assert "1 or more: the next round starts from the last" in done.err


def summary(scores: Sequence[float], champion: int | None, by: Any = "metric", **more: Any) -> RunSummary:
    empty: dict[str, Any] = {"knobs": {}, "balance": None, "kept": None, "seconds": 0.0, "state": "s", "report": "r", "roles": {}}
    rounds = [RoundSummary(round=index, metrics={"spl": score}, **empty) for index, score in enumerate(scores)]
    crowned = [Crowning(round=champion, number=9, at=0.0, by=by)] if champion is not None else []
    nothing: dict[str, Any] = {"reason": "", "config": {}, "science": "", "seed": 0, "began": 0.0, "ended": 0.0, "stages": [], "forked": None}
    return RunSummary(name="run", status="finished", rounds=rounds, crownings=crowned, forks=[], **{"promoted": [], **nothing, **more})


@pytest.mark.parametrize(
    ("run", "keep_last", "metric", "expected"),
    [
        (summary([2, 5, 3, 4], 1), 1, None, {0: "round 0", 1: "champion: best by its main metric", 3: "last"}),
        (summary([2, 5, 3, 5], 2, "gates"), 1, "spl", {0: "round 0", 1: "best: spl 5.000", 2: "champion: promoted by its gates", 3: "last"}),
        (summary([6, 5], 0), 1, None, {0: "round 0", 1: "last"}),
        (summary([2, 5], 1, "hand"), 9, "spl", {0: "round 0", 1: "champion: promoted by hand"}),
        (summary([2, 5, 6], 2, promoted=[{"round": 1, "state": "s", "model": "m"}]), 1, None,
         {0: "round 0", 1: "promoted as m", 2: "champion: best by its main metric"}),
        (summary([2, 5, 6], 2, promoted=[{"round": 1, "state": "set aside", "model": "m"}]), 1, "none",
         {0: "round 0", 2: "champion: best by its main metric"}),
        (summary([], None), 2, None, {}),
    ],
)  # fmt: skip
def test_rounds_are_kept_for_a_reason(run: RunSummary, keep_last: int, metric: str | None, expected: dict[int, str]) -> None:
    assert expected == _kept_rounds(run, keep_last, metric)


# passing by what is gone


def artifact(identity: str, digest: str = "") -> Artifact:
    return Artifact(identity=identity, digest=digest or f"digest of {identity}", kind="rollouts", rows=1)


def chain() -> list[Stage]:
    """Each reads the one before."""
    toss = Stage(verb="synthesize", component=Toss(), inputs={})
    judge = Stage(verb="verify", component=Judge(), inputs={"rollouts": artifact(toss.identity)})
    keep = Stage(verb="select", component=Keep(), inputs={"rollouts": artifact(judge.identity)}, round=3)
    return [toss, judge, keep]


def made_of(stage: Stage, digests: dict[str, str]) -> Artifact:
    return artifact(stage.identity, digests.get(stage.identity, ""))


def sparing(root: Path, gone: list[Stage], asked: list[Stage], **digests: str) -> Sparing:
    def make(stages: Any) -> list[Artifact]:
        asked.extend(stages)
        return [made_of(stage, digests) for stage in stages]

    return Sparing({stage.identity: artifact(stage.identity) for stage in gone}, LocalStore(state=root), make)


def test_a_chain_is_made_again_from_its_beginning_when_its_end_is_missing(root: Path) -> None:
    toss, judge, keep = chain()
    asked: list[Stage] = []
    makes = sparing(root, [toss, judge], asked)
    assert [artifact(toss.identity)] == makes.make([toss])
    assert [artifact(judge.identity)] == makes.make([judge])
    assert [] == asked
    assert [artifact(keep.identity)] == makes.make([keep])
    assert [toss, judge, keep] == asked


def test_what_comes_out_otherwise_is_said(root: Path) -> None:
    toss, judge, _ = chain()
    makes = sparing(root, [toss], [], **{toss.identity: "otherwise"})
    makes.make([toss])
    with pytest.raises(CorruptArtifact, match=r"round 0 · synthesize, which `ratchet gc` had deleted(?s:.*)ratchet retry NAME --round 0"):
        makes.make([judge])


def test_what_was_set_aside_since_is_not_passed_by(root: Path) -> None:
    events = Ledger(root / "ledger")
    kept = {"digest": "d", "kind": "rollouts", "rows": 1, "metrics": {}}
    events.append("collected", artifacts={"a": kept, "b": kept})
    events.append("retried", identities=["a"])
    assert ["b"] == list(collected(events))
