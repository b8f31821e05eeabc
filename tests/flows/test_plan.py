"""What would run, what would be reused, and why."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ratchet.flows.plan
from ratchet.flows.compose import compose
from ratchet.flows.plan import Line, Plan, plan
from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from ratchet.infra.store import LocalStore
from tests.toys.drive import HOUSE, Warm

TOYS = HOUSE / "tests" / "toys" / "configs"
WORDS = ("recipe=b_star", "rounds=2", "evaluation.samples=0")
NAME = "mine"
Planned = Callable[..., Plan]


@pytest.fixture(scope="module")
def finished(ratchet: Warm, memory: Path) -> Iterator[Path]:
    """A root with a finished run."""
    with tempfile.TemporaryDirectory(dir=memory) as root:
        assert 0 == ratchet.run(*WORDS, "--name", NAME, root=Path(root)).code
        yield Path(root)


def planned(root: Path, *words: str, name: str = NAME) -> Plan:
    return plan(RunFolder(root, name), compose(["experiment=toy", *WORDS, *words], TOYS))


def first(lines: Sequence[Line], fate: str) -> Line:
    return next(line for line in lines if line.fate == fate)


def fates(found: Plan) -> Counter[str]:
    return Counter(line.fate for line in found.lines)


def test_where_there_is_nothing_the_first_stages_run_and_the_rest_depends_on_them(tmp_path: Path) -> None:
    found = planned(tmp_path / "nowhere")
    assert ["run", "run"] == [line.fate for line in found.lines[:2]]
    assert "never asked before" == found.lines[0].why
    assert any(line.why == "depends on round 0 · create" for line in found.lines if line.fate == "unknown")
    assert (0, 2, None) == (found.planned, found.rounds, found.compared)
    assert not (tmp_path / "nowhere").exists(), "planning makes nothing"


def test_a_finished_run_is_reused_whole(finished: Path) -> None:
    found = planned(finished)
    assert {"reuse"} == set(fates(found))
    made = {identity for *_, identity, _ in results(RunFolder(finished, NAME).ledger)}
    assert made == {line.identity for line in found.lines}
    assert (2, NAME) == (found.planned, found.compared)


def test_another_name_reuses_the_same(finished: Path) -> None:
    assert {"reuse"} == set(fates(planned(finished, name="other")))


@pytest.mark.parametrize(
    ("words", "title", "why"),
    [
        (["training.gain=0.02"], "round 1 · train", "gain: 0.01 → 0.02"),
        (["control.temperatures=[0.5]"], "round 1 · adjust", "temperatures: [0.5, 1] → [0.5]; the input cells.1 changed"),
        (["synthesis.samples=5"], "round 0 · evaluation · synthesize", None),
        (["evaluation.samples=3"], "round 0 · evaluation · synthesize #2", "never asked before"),
        (["policy.skill=0.3"], "round 0 · create", "skill: 0.2 → 0.3"),
        (["seed=1"], "round 0 · create", "seed: "),
        (["task.size=9"], "round 0 · train problems · propose", "size: 12 → 9"),
        (
            ["verification=exact"],
            "round 0 · evaluation · verify",
            "another component: tests.toys.parts.Judge → ratchet.components.verification.exact.",
        ),
        (["rounds=3"], "round 3 · synthesize · temperature=0.5", "never asked before"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_change_is_named_at_the_first_stage_it_reaches(finished: Path, words: list[str], title: str, why: str | None) -> None:
    found = planned(finished, *words)
    if why is None:  # greedy evaluation draws one sample whatever `samples` says: round 1's draw is the first that it reaches
        assert "round 1 · synthesize · temperature=0.5" == first(found.lines, "run").title
        return
    line = first(found.lines, "run")
    assert title == line.title
    assert line.why.startswith(why)


def test_what_follows_a_missing_stage_depends_on_it_to_the_end_of_its_round(finished: Path) -> None:
    found = planned(finished, "training.gain=0.02")
    start = found.lines.index(first(found.lines, "run"))
    after = [line for line in found.lines[start + 1 :] if "propose" not in line.title]
    assert {"unknown"} == {line.fate for line in after}
    assert {"depends on round 1 · train"} >= {line.why for line in after[:1]}
    assert (1, 1) == (found.planned, max(line.round for line in found.lines))
    assert {None} == {line.identity for line in after}


def test_a_knob_that_is_yet_to_be_set_is_waited_for(finished: Path) -> None:
    found = planned(finished, "synthesis.samples=5")
    draws = [line for line in found.lines if line.title == "round 1 · synthesize #2"]
    assert [("unknown", "depends on round 1 · adjust")] == [(line.fate, line.why) for line in draws]


def test_a_plan_is_kept_by_the_run_that_follows(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*WORDS, "--name", NAME, root=root).code
    before = {identity for *_, identity, _ in results(RunFolder(root, NAME).ledger)}
    found = planned(root, "training.gain=0.02", name="other")
    assert 0 == ratchet.run(*WORDS, "training.gain=0.02", "--name", "other", root=root).code
    events = list(RunFolder(root, "other").ledger)
    tried = {event["identity"] for event in events if event["kind"] == "attempt"}
    assert {line.identity for line in found.lines if line.fate == "reuse"} <= before
    assert not tried & before
    assert {line.identity for line in found.lines if line.fate == "run"} <= tried


def test_shards_that_are_there_are_counted(ratchet: Warm, root: Path) -> None:
    assert 0 == ratchet.run(*WORDS, "--name", NAME, root=root).code
    store = LocalStore(state=root / ".ratchet")
    line = next(line for line in planned(root).lines if line.title == "round 1 · synthesize #2")
    manifest = store.find(line.identity or "")
    assert manifest is not None
    store.quarantine(manifest.identity)
    store.quarantine(manifest.parts[0]["identity"])
    again = first(planned(root).lines, "run")
    assert (line.title, "asked before, not published yet; 2 of 3 shards are there") == (again.title, again.why)


def test_code_that_changed_without_its_version_is_warned_of(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {""} == {line.warning for line in planned(finished).lines}

    def source(component: Any) -> str:
        return "changed" if type(component).__name__ == "Practice" else ""

    monkeypatch.setattr(ratchet.flows.plan, "source_digest", source)
    warned = [line for line in planned(finished).lines if line.warning and "train" in line.title.split(" · ")]
    assert 2 == len(warned)
    assert "the code of Practice changed since, its `version` did not" in warned[0].warning


@pytest.mark.parametrize(("title", "file"), [("round 1 · train", "policy.json"), ("round 1 · verify #2 · shard 1/2", "records.jsonl")])
def test_verifying_a_plan_reads_every_file(ratchet: Warm, root: Path, title: str, file: str) -> None:
    words = ("--config-dir", str(TOYS), "experiment=toy", *WORDS, "--name", NAME)
    assert 0 == ratchet.run(*WORDS, "--name", NAME, root=root).code
    assert "0 to run" in ratchet("plan", *words, "--verify", root=root).out
    identity = next(event["identity"] for event in RunFolder(root, NAME).ledger if event["kind"] == "attempt" and event["title"] == title)
    path = root / ".ratchet" / "objects" / identity / file
    path.write_text(path.read_text().replace("0", "9", 1))
    assert 0 == ratchet("plan", *words, root=root).code, "sizes are trusted"
    found = ratchet("plan", *words, "--verify", root=root)
    assert (1, False) == (found.code, "Traceback" in found.err)
    assert f"corrupted artifact {path.parent}: {file}" in found.err


def test_a_plan_says_in_a_line_what_it_comes_to(ratchet: Warm, finished: Path) -> None:
    words = ("--config-dir", str(TOYS), "experiment=toy", *WORDS)
    done = ratchet("plan", *words, "training.gain=0.02", "--name", "other", root=finished)
    assert "other: " in done.out
    assert " 1 to run, " in done.out
    assert "Rounds 2 to 2 depend on round 1." in done.out
