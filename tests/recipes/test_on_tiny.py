"""The three proofs on the real default parts, with sizes cut down: it runs, it reruns the same, it resumes after a kill. Minutes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ratchet.infra.ledger import results
from ratchet.infra.runs import runs_under

RECIPES = ["star", "rest_em", "iterative_rft", "online_rft", "b_star"]
SIZES = """
rounds=1 task.worked=200 task.prm=10 task.train=24 task.dev=6 task.test=12 policy.warmup.steps=60 synthesis.samples=4 synthesis.rows_per_shard=12
evaluation.samples=2 evaluation.ks=[2] evaluation.s_values=[1] training.steps=6 on_empty=continue tracker=null
"""


def start(root: Path, recipe: str, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "ratchet.flows.cli", "run", f"recipe={recipe}", *SIZES.split(), *words, "--no-prefect"]
    return subprocess.Popen(command, env={**os.environ, "RATCHET_ROOT": str(root)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(root: Path, recipe: str) -> list[tuple[object, ...]]:
    run = start(root, recipe)
    _, errors = run.communicate()
    assert 0 == run.returncode, errors.decode()
    (found,) = runs_under(root)
    return results(found.ledger)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_runs_reruns_the_same_and_resumes_after_kills(recipe: str, tmp_path: Path) -> None:
    whole = finish(tmp_path / "whole", recipe)
    assert all(digest is not None for *_, digest in whole)

    killed = tmp_path / "killed"
    for seconds in (9, 13, 17, 21):
        run = start(killed, recipe)
        time.sleep(seconds)
        run.send_signal(signal.SIGKILL)
        run.communicate()

    assert whole == finish(killed, recipe)
