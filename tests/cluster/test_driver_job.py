"""`infra/slurm/driver.sbatch`: the driver is a job like any other, and continues its run whenever it is started again."""

from pathlib import Path

import pytest

from ratchet.infra.ledger import results
from ratchet.infra.runs import RunFolder
from tests.cluster.clusters import Cluster
from tests.toys.drive import HOUSE, TOYS, Warm, wait_until

DRIVER = str(HOUSE / "infra/slurm/driver.sbatch")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


WORDS = ("recipe=rest_em", "rounds=0", "evaluation.samples=0", "synthesis.rows_per_shard=6", "synthesis.seconds=0.5")
"""Seven batches of jobs, one of which works for some seconds."""


@pytest.mark.slow
def test_a_run_whose_driver_was_requeued_is_the_run_that_it_would_have_been(slurm: Cluster, ratchet: Warm, root: Path, tmp_path: Path) -> None:
    log, exports = tmp_path / "log", f"--export=ALL,RATCHET={HOUSE / '.venv/bin/ratchet'}"
    words = ("math", *TOYS, *WORDS, "executor=slurm", "executor.grace_s=5", "--no-prefect", f"root={root}")
    id = slurm.says("sbatch", "--parsable", exports, f"--output={log}", DRIVER, *words)
    wait_until(lambda: any(event["kind"] == "published" for event in RunFolder(root, "math").ledger), "the first stage", 30)
    slurm.says("scancel", "--batch", "--signal=USR1", id)
    slurm.wait(id, "COMPLETED", restarts=1, limit_s=60)
    text = log.read_text()
    assert 1 == text.count("ratchet: detached"), text
    assert "the walltime ends" in text
    assert 0 == ratchet.run(*WORDS, "--name", "math", root=tmp_path).code
    assert results(RunFolder(tmp_path, "math").ledger) == results(RunFolder(root, "math").ledger)
    begun = [sum(len(lines(path)) for path in claim.glob("attempts/*/starts")) for claim in (root / ".ratchet/claims").iterdir()]
    assert {1} == set(begun), "no work was begun twice"


FAKE = """#!/bin/sh
# Stands for `ratchet`: says what it was asked, and lets go of the run when it is told to.
echo "asked: $*"
env | sed -n 's/^\\(SLURM_[A-Z_]*\\|SBATCH_[A-Z_]*\\)=.*/sees: \\1/p'
[ "$1" != show ] || exit 0
[ "$1" != resume ] || exit ${ENDS:-0}
trap 'exit 130' TERM
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize(
    "told", ["USR1, by which Slurm says that the walltime ends", pytest.param("requeue, as a preemption does", marks=pytest.mark.slow)]
)
def test_the_driver_as_a_job_comes_back_and_resumes(slurm: Cluster, tmp_path: Path, told: str) -> None:
    fake, log = tmp_path / "ratchet", tmp_path / "log"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    words = (DRIVER, "math", "recipe=star", f"root={tmp_path}")
    id = slurm.says("sbatch", "--parsable", f"--export=ALL,RATCHET={fake}", f"--output={log}", *words)
    wait_until(lambda: any(line.startswith("asked") for line in lines(log)), "the driver")
    slurm.says(*(("scancel", "--batch", "--signal=USR1", id) if told.startswith("USR1") else ("scontrol", "requeue", id)))
    slurm.wait(id, "COMPLETED")
    asked = [line.removeprefix("asked: ") for line in lines(log) if line.startswith("asked")]
    assert [f"run --name math recipe=star root={tmp_path}", "resume math"] == asked
    assert {"sees: SLURM_CONF"} == {line for line in lines(log) if line.startswith("sees")}, "its jobs do not inherit what it was given"


def test_a_driver_that_failed_stays_ended(slurm: Cluster, tmp_path: Path) -> None:
    fake = tmp_path / "ratchet"
    fake.write_text("#!/bin/sh\nexit 2\n")
    fake.chmod(0o755)
    id = slurm.says("sbatch", "--parsable", f"--export=ALL,RATCHET={fake}", "--output=/dev/null", DRIVER, "math")
    slurm.wait(id, "FAILED")
    assert slurm.remembers(id, ("FAILED", "2:0"))
