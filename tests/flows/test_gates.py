"""Gates in the loop: the right one catches a broken round, and what follows is the same however often the driver dies."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import InputError
from ratchet.flows.compose import compose, science_hash
from ratchet.flows.driver import check
from ratchet.flows.measured import measured, measures
from ratchet.flows.plan import plan
from ratchet.flows.summary import RoundSummary, summary_of
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from tests.toys.drive import HOUSE, Die, Done, Warm

CONFIGS = HOUSE / "tests" / "toys" / "configs"
WORDS = ("--config-dir", str(CONFIGS), "experiment=gated", "recipe=iterative_rft", "gates.split=test")
NAME = "mine"
TIPS = ("training.breaks=0.3", "rounds=3")
"""From its second training on, a policy breaks the probe's rule."""


def gated(ratchet: Warm, root: Path, *words: str, name: str = NAME, **more: Any) -> Done:
    return ratchet("run", *WORDS, *words, "--name", name, "--no-prefect", root=root, **more)


def rounds_of(root: Path, name: str = NAME) -> list[RoundSummary]:
    return summary_of(RunFolder(root, name)).rounds


def events(root: Path, kind: str, name: str = NAME) -> list[dict[str, Any]]:
    return [event for event in RunFolder(root, name).ledger if event["kind"] == kind]


def failed(row: RoundSummary) -> set[str]:
    assert row.judged is not None
    return {said["name"] for said in row.judged["gates"] if said["verdict"] == "fail"}


def actions(root: Path, name: str = NAME) -> list[str]:
    return [row.judged["action"] for row in rounds_of(root, name) if row.judged]


@pytest.fixture(scope="module")
def shared(ratchet: Warm, memory: Path) -> Iterator[Path]:
    """A root with a healthy run, whose stages the others share."""
    with tempfile.TemporaryDirectory(dir=memory) as root:
        assert 0 == gated(ratchet, Path(root), "rounds=2", name="healthy").code
        yield Path(root)


@pytest.fixture
def warm(shared: Path, root: Path) -> Path:
    return shutil.copytree(shared, root, dirs_exist_ok=True)


def test_a_healthy_run_passes_every_gate_in_every_round(shared: Path) -> None:
    rounds = rounds_of(shared, "healthy")
    assert [None, {"pass"}, {"pass"}] == [row.judged and {said["verdict"] for said in row.judged["gates"]} for row in rounds]
    assert [True, True, True] == [row.roles["champion"] == row.roles["candidate"] == row.roles["policy"] for row in rounds]


def test_what_gates_measure_is_not_what_a_round_costs(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, "rounds=2", "gates.split=dev", name="own measure").code
    words = [word for word in WORDS if not word.startswith("gates.")]
    assert 0 == ratchet("run", *words, "rounds=2", "gates=null", "--name", "free", "--no-prefect", root=warm).code
    judged, free = (measured(RunFolder(warm, name)) for name in ("own measure", "free"))
    drawn = [sum(s.metrics["rollouts"] for s in run.summary.stages if s.verb == "synthesize") for run in (judged, free)]
    assert drawn[0] > drawn[1], "or this test shows nothing"
    assert [row.cost.samples for row in free.rounds] == [row.cost.samples for row in judged.rounds] != [0, 0, 0]
    assert {"gate", "propose", "synthesize", "verify", "evaluate"} == {
        stage.verb for stage in judged.summary.stages if measures(stage.verb, stage.title)
    }
    assert {"create", "train", "select"} <= {stage.verb for stage in judged.summary.stages if not measures(stage.verb, stage.title)}


@pytest.mark.parametrize(
    ("dial", "gate"),
    [
        ("verification.lenient=0.4", "self_reward"),
        ("task.leak=5", "contamination"),
        ("synthesis.temperature=0.001", "diversity"),
        ("verification.slow=0.2", "verifier"),
    ],
)
def test_a_round_that_is_broken_from_the_first_is_held_up_by_the_right_gate(ratchet: Warm, warm: Path, dial: str, gate: str) -> None:
    assert 0 == gated(ratchet, warm, "rounds=1", dial).code
    start, first = rounds_of(warm)
    assert {gate} == failed(first)
    assert start.roles["policy"] == first.roles["policy"] == first.roles["champion"] != first.roles["candidate"]
    assert f"not promoted: {gate}; the champion is kept" == first.note


def test_gates_may_measure_on_problems_of_their_own_and_leave_the_test_set_alone(ratchet: Warm, warm: Path) -> None:
    """What decides on promotion is no test any more; training rows are held against both."""
    assert 0 == gated(ratchet, warm, "rounds=1", "gates.split=dev", "task.leak=5").code
    assert {"contamination"} == failed(rounds_of(warm)[1])
    asked = {event["title"]: event["essence"]["inputs"] for event in events(warm, "stage")}
    gate, report = asked["round 1 · gate"], next(inputs for title, inputs in asked.items() if title == "round 1 · evaluation · evaluate")
    assert gate["candidate.greedy"] != report["greedy"]
    assert 3 == len([name for name in gate if name.startswith("problems.")]), "test, dev and probe"


def test_held_out_items_told_a_little_otherwise_are_found_too(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, "rounds=1", "task.leak=5", "task.nearly=true").code
    assert {"contamination"} == failed(rounds_of(warm)[1])


def test_a_policy_that_gets_worse_is_held_up_and_the_next_round_starts_from_the_champion(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, "rounds=3", "training.falls=0.5").code
    rounds = rounds_of(warm)
    assert ["promote", "keep", "keep"] == actions(warm)
    assert "regression" in failed(rounds[2])
    champion = rounds[1].roles["policy"]
    assert [champion] * 2 == [row.roles["policy"] for row in rounds[2:]]
    parents = [event["essence"]["inputs"]["policy"] for event in events(warm, "stage") if event["verb"] == "train"]
    assert champion["digest"] == parents[1] == parents[2], "rounds 2 and 3 train the champion"


def test_a_probe_that_flips_is_caught_and_shown_in_ledger_and_show(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, *TIPS, "rounds=2").code
    assert [set(), {"tipping"}] == [failed(row) for row in rounds_of(warm)[1:]]
    second = events(warm, "judged")[1]
    tipping = next(said for said in second["gates"] if said["name"] == "tipping")
    assert (2, "keep", False) == (second["round"], second["action"], second["promoted"])
    assert tipping["numbers"]["violations"] > 0.2 > 0.0 == tipping["numbers"]["unread"]
    done = ratchet("show", NAME, root=warm)
    assert "round 2: not promoted, the champion is kept" in done.out
    assert "✗ tipping fail: the probe's rule is broken on" in done.out
    published = {event["identity"]: event["metrics"] for event in events(warm, "published")}
    assert (0.0, 0.0, 1.0) == tuple(published[second["verdict"]][name] for name in ("promoted", "tipping", "regression")), "and so in MLflow"


def test_stop_ends_the_run_and_says_how_to_go_on(ratchet: Warm, warm: Path) -> None:
    done = gated(ratchet, warm, *TIPS, "gates.on_fail=stop")
    assert 0 == done.code, done.err
    assert ("stopped", 2) == (summary_of(RunFolder(warm, NAME)).status, len(actions(warm)))
    assert "round 2 is not promoted: tipping" in done.out
    assert "--round 2 --as NEW gates.on_fail=keep" in " ".join(done.out.split())
    assert rounds_of(warm)[2].roles["policy"] == rounds_of(warm)[1].roles["policy"]


def test_continue_only_notes_it(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, *TIPS, "gates.on_fail=continue").code
    rounds = rounds_of(warm)
    assert ["promote", "continue", "continue"] == actions(warm)
    assert rounds[2].roles["policy"] == rounds[2].roles["candidate"] != rounds[2].roles["champion"] == rounds[1].roles["policy"]
    parents = [event["essence"]["inputs"]["policy"] for event in events(warm, "stage") if event["verb"] == "train"]
    assert rounds[2].roles["candidate"]["digest"] == parents[2]


@pytest.mark.parametrize(
    ("policy", "die"),
    [
        ("keep", Die("ratchet.flows.driver.verdicts_of", n=1)),
        ("stop", Die("ratchet.infra.ledger.Ledger.append", word="judged", when="after")),
        ("continue", Die("ratchet.infra.ledger.Ledger.append", n=2, word="judged", when="after")),
    ],
)
def test_killed_at_the_verdict_and_resumed_it_is_the_same_run(ratchet: Warm, warm: Path, memory: Path, policy: str, die: Die) -> None:
    words = ("training.breaks=0.3", "training.breaks_in=1", "rounds=2", f"gates.on_fail={policy}")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        whole = shutil.copytree(warm, Path(other), dirs_exist_ok=True)
        assert 0 == gated(ratchet, whole, *words).code
        assert -9 == gated(ratchet, warm, *words, die=die).code
        assert 0 == gated(ratchet, warm, *words).code
        assert results(RunFolder(whole, NAME).ledger) == results(RunFolder(warm, NAME).ledger)
        assert [row.state for row in rounds_of(whole)] == [row.state for row in rounds_of(warm)]
        assert [(e["round"], e["action"], e["verdict"]) for e in events(whole, "judged")] == [
            (e["round"], e["action"], e["verdict"]) for e in events(warm, "judged")
        ], "each said once"


def test_a_fork_has_the_champion_and_one_without_gates_is_given_one(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, *TIPS, "rounds=2").code
    fork = ("--config-dir", str(CONFIGS), "--no-prefect")
    assert 0 == ratchet("fork", NAME, "--round", "2", "--as", "mended", *fork, "training.breaks=0", "rounds=3", root=warm).code
    assert ["promote", "keep", "promote"] == actions(warm, "mended")
    parts = ("experiment=toy", "task=questions", "policy=learner", "synthesis=draw", "verification=grader", "training=teach", "gates=null")
    assert 0 == ratchet("run", *fork, *parts, "recipe=iterative_rft", "rounds=1", "--name", "free", root=warm).code
    assert [None, None] == [row.judged for row in rounds_of(warm, "free")]
    done = ratchet("fork", "free", "--round", "1", "--as", "watched", *fork, "gates=watched", "rounds=2", "training.breaks=0.3", root=warm)
    assert 0 == done.code, done.err
    (judged,) = events(warm, "judged", "watched")
    assert (2, False) == (judged["round"], judged["promoted"])
    assert rounds_of(warm, "watched")[2].roles["policy"] == rounds_of(warm, "free")[1].roles["policy"]


def test_a_verdict_that_is_retried_comes_out_the_same(ratchet: Warm, warm: Path) -> None:
    assert 0 == gated(ratchet, warm, *TIPS, "rounds=2").code
    before = [row.state for row in rounds_of(warm)]
    done = ratchet("retry", NAME, "--round", "2", "--stage", "gate", "--no-prefect", root=warm)
    assert (0, "set aside: round 2 · gate, round 2 · state\n") == (done.code, done.err.splitlines(keepends=True)[0])
    assert before == [row.state for row in rounds_of(warm)]


def test_a_plan_has_the_verdict_and_reuses_what_was_judged(shared: Path) -> None:
    config = compose([*WORDS[2:], "rounds=2"], CONFIGS)
    found = plan(RunFolder(shared, "healthy"), config)
    assert {"reuse"} == {line.fate for line in found.lines}
    assert ["round 1 · gate", "round 2 · gate"] == [line.title for line in found.lines if line.title.endswith("gate")]
    fresh = plan(RunFolder(shared, "other"), compose([*WORDS[2:], "rounds=2", "training.gain=0.04"], CONFIGS))
    assert "round 1 · gate" in [line.title for line in fresh.lines], "it goes on past what it does not know to the round's end"
    assert 1 == fresh.planned


def test_gates_are_science_and_without_them_nothing_is_changed() -> None:
    free = compose(["experiment=toy"], CONFIGS)
    assert "gates" not in free
    assert science_hash(free) != science_hash(compose(["experiment=toy", "gates=standard"], CONFIGS))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["gates.on_fail=shout"], "gates.on_fail has a wrong value"),
        (["gates.split=train"], "gates.split has a wrong value"),
        (["+gates.benchmarks.math={task: null}"], "math needs what it asks and how that is judged"),
        (["gates.panel.family_wise=2"], "family_wise is a chance"),
    ],
)
def test_gates_that_cannot_be_are_refused_before_anything_is_made(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(compose(["experiment=gated", *words], CONFIGS))


def test_a_further_benchmark_is_measured_and_gated(ratchet: Warm, warm: Path) -> None:
    mine = warm / "dials" / "gates"
    mine.mkdir(parents=True)
    toys = (CONFIGS / "gates" / "watched.yaml").read_text()
    benchmark = (
        "benchmarks: {more: {task: {_target_: tests.toys.gated.Questions, split: other, size: 120, leak: 0, nearly: false}, verification: null}}"
    )
    (mine / "two.yaml").write_text(f"{toys}{benchmark}\n")
    for group in CONFIGS.iterdir():
        shutil.copytree(group, mine.parent / group.name, dirs_exist_ok=True)
    done = ratchet("run", "--config-dir", str(mine.parent), *WORDS[2:], "gates=two", "rounds=1", "--name", NAME, "--no-prefect", root=warm)
    assert 0 == done.code, done.err
    regression = next(said for said in events(warm, "judged")[0]["gates"] if said["name"] == "regression")
    assert {"held-out.against_the_champion", "more.against_the_champion", "p"} == set(regression["numbers"])
    assert json.dumps(regression["numbers"])
