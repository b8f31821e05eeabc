"""The page on one's own recipe, task and verifier does what it says."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "your_own.md"
BLOCK = re.compile(r"^```\w+ (?:file=(?P<file>\S+)|(?P<run>run))\n(?P<text>.*?)^```$", re.M | re.S)


def test_the_page_runs_as_written(tmp_path: Path) -> None:
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    for block in blocks:
        if block["file"]:
            (tmp_path / block["file"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block["file"]).write_text(block["text"])
    (command,) = [block["text"].strip() for block in blocks if block["run"]]
    small = (
        "policy.warmup.steps=20 synthesis.samples=2 evaluation.samples=2 evaluation.ks=[2] evaluation.s_values=[1] training.steps=3 on_empty=continue"
    )

    done = subprocess.run(
        [sys.executable, "-m", "ratchet.flows.cli", *shlex.split(command)[1:], *small.split(), "tracker=null", "--no-prefect", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "RATCHET_ROOT": str(tmp_path / "runs")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stderr
    summary = json.loads(done.stdout)
    assert [0, 1] == [row["round"] for row in summary["rounds"]]
    assert {"mine.Letters", "mine.AtMostOneOff"} <= {summary["config"][group]["_target_"] for group in ("task", "verification")}
