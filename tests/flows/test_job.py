"""What runs in a job: it publishes, or it leaves a last word; it never does what is done, and nothing before it is let go."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.artifacts import RECORDS
from ratchet.flows.job import perform_here
from ratchet.infra.claims import Claim
from ratchet.infra.runs import make_root
from ratchet.infra.store import LocalStore
from ratchet.records import Demonstration, write
from ratchet.stages import Stage
from tests.toys.odd import Breaks, Continues, Raises
from tests.toys.parts import Sums

PROPOSE = Stage(verb="propose", component=Sums(), inputs={})


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(state=make_root(root))


def claimed(store: LocalStore, stage: Stage, attempt: int = 1) -> Claim:
    """What the launcher leaves for a job."""
    claim = Claim(store.state / "claims" / stage.identity)
    claim.attempt(attempt).mkdir(parents=True, exist_ok=True)
    claim.write_spec(stage.spec())
    return claim


def perform(store: LocalStore, stage: Stage, attempt: int = 1) -> dict[str, Any] | None:
    """Do a stage as an attempt; its last word."""
    claim = claimed(store, stage, attempt)
    perform_here(store, stage.identity, attempt)
    return claim.exit(attempt)


def test_a_job_publishes_and_says_so(store: LocalStore) -> None:
    word = perform(store, PROPOSE)
    assert word is not None
    assert ("published", 1) == (word["state"], word["exit_code"])
    manifest = store.verify(PROPOSE.identity)
    assert (12, "tests.toys.parts.Sums", "propose") == (manifest.rows, manifest.producer["component"], manifest.producer["verb"])
    made = store.made(PROPOSE.identity)
    assert {"host", "python", "versions", "threads", "source", "attempt", "seconds", "published"} <= set(made)


def test_a_job_that_is_started_again_leaves_at_once(store: LocalStore) -> None:
    """As a scheduler does that requeues it."""
    perform(store, PROPOSE)
    before = store.made(PROPOSE.identity)
    assert perform(store, PROPOSE, attempt=2) is None
    assert before == store.made(PROPOSE.identity)


def test_a_job_whose_driver_died_before_it_let_it_go_does_nothing(store: LocalStore) -> None:
    claim = claimed(store, PROPOSE)
    command = [sys.executable, "-P", "-m", "ratchet.flows.job", str(store.state), PROPOSE.identity, "1", "--held"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (0, True) == (done.returncode, "nothing was done" in done.stderr)
    assert store.find(PROPOSE.identity) is None
    assert "never released" == (claim.exit(1) or {})["state"]


def test_a_job_in_a_process_of_its_own_imports_only_what_its_verb_needs(store: LocalStore) -> None:
    claimed(store, PROPOSE)
    command = [sys.executable, "-P", "-X", "importtime", "-m", "ratchet.flows.job", str(store.state), PROPOSE.identity, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "import time" in line}
    assert set() == imported & {"prefect", "hydra", "mlflow", "torch", "transformers", "numpy", "rich", "boto3"}
    assert store.find(PROPOSE.identity) is not None


@pytest.mark.parametrize(
    ("error", "state", "code", "reason"),
    [
        ("input", "failed", 2, "no such colour"),
        ("memory", "out of memory", 1, "MemoryError: 256 GiB"),
        ("disk", "failed", 1, "[Errno 28] No space left on device (free space or mend the path, then run again)"),
        ("bug", "failed", 1, "KeyError: 'x'"),
    ],
)
def test_whatever_a_part_raises_is_a_last_word(store: LocalStore, error: str, state: str, code: int, reason: str) -> None:
    stage = Stage(verb="propose", component=Raises(error=error), inputs={})
    word = perform(store, stage)
    assert word is not None
    assert (state, code, reason) == (word["state"], word["exit_code"], word["reason"])
    assert store.find(stage.identity) is None
    assert [] == list((store.state / "drafts").iterdir()), "half a result is not kept"
    assert reason.partition(" (")[0].split(": ")[-1] in (Claim(store.state / "claims" / stage.identity).attempt(1) / "log").read_text()


@pytest.fixture
def training(store: LocalStore) -> Callable[[Any], Stage]:
    """A stage that trains on an example, by a given trainer."""
    for identity, kind in (("p" * 32, "policy"), ("d" * 32, "demonstrations")):
        draft = store.draft(identity, "1")
        write(draft / RECORDS, [Demonstration(prompt="a", completion="b")])
        store.publish(draft, identity=identity, kind=kind, rows=1)

    def of(trainer: Any) -> Stage:
        artifacts = [found.artifact for identity in ("p" * 32, "d" * 32) if (found := store.find(identity))]
        return Stage(verb="train", component=trainer, inputs=dict(zip(("policy", "examples"), artifacts, strict=True)), seed=1)

    return of


def test_checkpoints_outlive_a_failed_attempt_and_go_when_the_stage_is_done(store: LocalStore, training: Callable[[Any], Stage]) -> None:
    broken = training(Breaks())
    assert "ValueError: not today" == (perform(store, broken) or {})["reason"]
    assert "half" == (Claim(store.state / "claims" / broken.identity).scratch / "checkpoint").read_text()

    stage = training(Continues())
    scratch = Claim(store.state / "claims" / stage.identity).scratch
    scratch.mkdir(parents=True)
    (scratch / "checkpoint").write_text("half")
    perform(store, stage)
    assert {"continued": 1.0} == store.verify(stage.identity).metrics
    assert not scratch.exists()


def test_a_corrupted_input_fails_the_job_by_its_name(store: LocalStore, training: Callable[[Any], Stage]) -> None:
    path = store.object("d" * 32) / RECORDS
    path.write_text(path.read_text().replace("a", "z"))
    word = perform(LocalStore(state=store.state), training(Continues()))
    assert word is not None
    assert f"corrupted artifact {path.parent}: {RECORDS}" in word["reason"]
