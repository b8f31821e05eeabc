"""The benchmarks run, at sizes that say nothing but this; and what of them is a count and no time is held here."""

import time
from pathlib import Path

import pytest

from benchmarks import episodes, memory, replan, slurm, stages
from ratchet.infra.executors import Local


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's temporary folder may be in memory."""
    monkeypatch.setattr("benchmarks.common.filesystem_of", lambda folder: "ext4")


def test_stages_measures_every_way_that_needs_no_other_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = stages.main(["--length", "3", "--repeats", "1", "--under", str(tmp_path), "--without", "metaflow", "snakemake", "submitit"])
    assert {"ratchet inline", "ratchet local", "a Python process, nothing else"} <= set(steps)
    assert 0 < steps["ratchet inline"] < steps["ratchet local"]
    assert "9 flushes" in capsys.readouterr().out, "what a stage inline costs a disk: look at infra/manifests.py and infra/claims.py"


def test_stages_leaves_out_what_cannot_be_installed_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho 'ERROR: no such host' >&2\nexit 1\n")
    python.chmod(0o755)
    assert [] == stages.others(tmp_path, ["metaflow"])
    assert "metaflow is left out: pip install metaflow==2.19.39 failed: ERROR: no such host\n" == capsys.readouterr().out


def test_replan_finds_everything_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    added = replan.main(["--rounds", "2", "--length", "3", "--kib", "1", "--repeats", "1", "--under", str(tmp_path)])
    assert {"ratchet plan", "ratchet plan --verify", "ratchet run, again", "stat of every file", "sha256 of every file"} == set(added)
    assert "\n12 stages asked" in capsys.readouterr().out, "3 in a row, twice; two splits and a policy before; another split after each of 3 rounds"


def test_memory_reads_the_drivers_own_peak(tmp_path: Path) -> None:
    peaks = memory.main(["--rollouts", "100", "--under", str(tmp_path)])
    assert 10 < peaks[100].driver < 1000


def test_slurm_measures_the_delay_after_a_jobs_last_act_and_counts_the_schedulers_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "COMMANDS", ("true",))  # stands for sbatch and the like

    def late(folder: Path, seconds: float, count: int) -> list[float]:
        import subprocess

        subprocess.run(["true"], check=True)
        for index in range(count):
            slurm.work(seconds, str(folder), index)
        time.sleep(0.5)
        return [time.time()] * count

    found = slurm.main(["--seconds", "0", "--array", "2", "--repeats", "1", "--under", str(tmp_path)], {"late": late, "ours": slurm.ours(Local)})
    assert 0.5 <= found["late", "1 job of 0 s"].delay < found["late", "1 job of 0 s"].whole < 5
    assert {"true": 1} == found["late", "2 jobs of 0 s"].calls
    assert {} == found["ours", "2 jobs of 0 s"].calls
    assert 0 < found["ours", "2 jobs of 0 s"].delay < 5


def test_episodes_measures_every_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert {1, 8} == episodes.main(["--episodes", "8", "--sizes", "1", "8", "--repeats", "1"]).keys()
    assert "8 episodes of" in capsys.readouterr().out
