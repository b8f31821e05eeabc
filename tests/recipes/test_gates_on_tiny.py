"""On the default task, with the default policy at its full size, each broken round is caught by the gate that is there for it. Minutes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ratchet.flows.build import build
from ratchet.flows.compose import compose
from ratchet.flows.summary import summary_of
from ratchet.infra.runs import RunFolder
from tests.toys.drive import TOYS

HOUSE_WORDS = ("recipe=rest_em", "verification=exact", "process_reward=null", "evaluation.samples=4", "tracker=null")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root: the base policy is trained once."""
    return tmp_path_factory.mktemp("runs")


def judged(root: Path, name: str, *words: str) -> list[dict[str, str]]:
    """Of every judged round of a run: gate → verdict."""
    command = [sys.executable, "-P", "-m", "ratchet.flows.cli", "run", "--no-prefect", "--name", name, *TOYS[:2], *HOUSE_WORDS, *words]
    done = subprocess.run(command, env={**os.environ, "RATCHET_ROOT": str(root)}, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    rounds = summary_of(RunFolder(root, name)).rounds
    return [{said["name"]: said["verdict"] for said in row.judged["gates"]} for row in rounds if row.judged]


def test_healthy_rounds_are_promoted(shared: Path) -> None:
    rounds = judged(shared, "healthy", "gates=labelled", "rounds=2")
    assert [False, False] == ["fail" in verdicts.values() for verdicts in rounds], rounds


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("self_reward", ("gates=labelled", "verification=lenient", "verification.accepts=0.4")),
        ("contamination", ("gates=labelled", "task=leaky", "task.leak=40")),
        ("diversity", ("gates=labelled", "synthesis.temperature=0.01")),
    ],
)
def test_a_broken_round_is_held_up_by_its_gate(shared: Path, gate: str, words: tuple[str, ...]) -> None:
    (verdicts,) = judged(shared, gate, *words, "rounds=1")
    assert "fail" == verdicts[gate], verdicts


def test_a_policy_whose_answers_flip_to_what_the_probe_forbids_is_held_up(shared: Path, tmp_path: Path) -> None:
    """The rule forbids answers that end in 9, on sums that are in no split; the verifier takes a fancy to just those."""
    file = tmp_path / "probes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in probes(300)))
    words = (f"gates.probe.task.file={file}", "gates.panel.gates.tipping.cap=0.99", "verification=fancies")
    (verdicts,) = judged(shared, "flips", "gates=probed", *words, "rounds=1")
    assert "fail" == verdicts["tipping"], verdicts


def probes(count: int) -> list[dict[str, Any]]:
    task = build(compose([])["task"], "task")
    known = {problem.prompt for split in ("worked", "train", "dev", "test") for problem in replace(task, split=split).propose()}
    others = replace(task, split="test", worked=1, prm=1, train=1, dev=1, test=3000, problem_seed=1).propose()
    fresh = (problem for problem in others if problem.prompt not in known)
    sums = list(islice(fresh, count))
    assert count == len(sums)
    broken, kept = ([str(number) for number in range(100) if (number % 10 == 9) is nine] for nine in (True, False))
    return [{"id": p.id, "prompt": p.prompt, "kept": kept, "broken": broken} for p in sums]
