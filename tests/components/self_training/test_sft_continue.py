"""A training that was killed continues from its newest whole checkpoint and ends with the bytes of one that was not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.components.policies.tiny import Tiny
from ratchet.components.self_training.sft import SFT
from ratchet.identity import file_sha256
from ratchet.records import Demonstration

SUMS = [Demonstration(prompt=f"{a}+{b}=", completion=str(a + b)) for a in range(5) for b in range(5)]
TRAINER = SFT(steps=12, batch_size=4, learning_rate=1e-2, warmup_steps=2, save_every=3)

# Trains, and is killed by the kernel in the middle of its eighth step: checkpoints of steps 3 and 6 are then on disk.
DIES_IN_STEP_8 = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
import trl
from test_sft_continue import SUMS, TRAINER
steps, step = [], trl.SFTTrainer.training_step
def counted(*args, **kwargs):
    steps.append(1)
    if len(steps) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args, **kwargs)
trl.SFTTrainer.training_step = counted
folder = Path(sys.argv[1])
TRAINER.train(folder / "base", SUMS, out=folder / "killed", scratch=folder / "scratch", seed=1)
"""


def digests(folder):
    return {str(file.relative_to(folder)): file_sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with a policy, what training makes of it undisturbed, and the scratch of a training that was killed."""
    import torch

    folder = tmp_path_factory.mktemp("killed")
    for name in ("base", "undisturbed", "killed"):
        (folder / name).mkdir()
    tiny = Tiny(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=32)
    tiny.create([], out=folder / "base", scratch=folder, seed=0)
    tiny.create([], out=folder / "other", scratch=folder, seed=1)
    metrics = TRAINER.train(folder / "base", SUMS, out=folder / "undisturbed", scratch=folder / "scratch.undisturbed", seed=1)
    command = [sys.executable, "-c", DIES_IN_STEP_8, str(folder), str(torch.get_num_threads())]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)}, check=False)
    assert ended.returncode == -9
    assert list((folder / "killed").iterdir()) == []
    return folder, metrics


def continued(folder, scratch, out, monkeypatch):
    """Train again over a scratch folder; the metrics, and how many steps that took."""
    import trl

    steps, step = [], trl.SFTTrainer.training_step
    monkeypatch.setattr(trl.SFTTrainer, "training_step", lambda *args, **kwargs: steps.append(1) or step(*args, **kwargs))
    out.mkdir()
    return TRAINER.train(folder / "base", SUMS, out=out, scratch=scratch, seed=1), len(steps)


def tear(scratch):
    weights = scratch / "checkpoints/000000006/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def lose_state(scratch):
    (scratch / "checkpoints/000000006/state.json").unlink()


def leave_a_draft(scratch):
    shutil.copytree(scratch / "checkpoints/000000006", scratch / "checkpoints/draft-1")


def lose_all(scratch):
    shutil.rmtree(scratch)


@pytest.mark.parametrize(("harm", "expected_steps"), [(None, 12 - 6), (leave_a_draft, 12 - 6), (tear, 12 - 3), (lose_state, 12 - 3), (lose_all, 12)])
def test_a_killed_training_continues_and_ends_with_the_same_bytes(killed, tmp_path, monkeypatch, harm, expected_steps):
    folder, metrics = killed
    scratch = tmp_path / "scratch"
    shutil.copytree(folder / "scratch", scratch)
    if harm is not None:
        harm(scratch)
    again, steps = continued(folder, scratch, tmp_path / "out", monkeypatch)
    assert expected_steps == steps
    assert digests(folder / "undisturbed") == digests(tmp_path / "out")
    assert metrics == again


@pytest.mark.parametrize(("seed", "policy"), [(2, "base"), (1, "other")])
def test_a_checkpoint_of_other_work_is_not_taken(killed, tmp_path, seed, policy):
    folder, _ = killed
    scratch = tmp_path / "scratch"
    shutil.copytree(folder / "scratch", scratch)
    for name, where in (("fresh", tmp_path / "empty"), ("over", scratch)):
        (tmp_path / name).mkdir()
        TRAINER.train(folder / policy, SUMS, out=tmp_path / name, scratch=where, seed=seed)
    assert digests(tmp_path / "fresh") == digests(tmp_path / "over")
