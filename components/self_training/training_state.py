"""What training needs to go on exactly where it stood: optimizer moments, exact weights, the place in schedule, order and randomness.

Written as `training_state/` beside a policy's weights (for the next round) and as checkpoints in a stage's scratch folder (for the
next attempt). Tensors are safetensors, the rest is JSON; `state.json` is written last and holds the digests of the others.

    state.json              place in the schedule and in the data, what the schedule was
    optimizer.safetensors   AdamW's `exp_avg/NAME`, `exp_avg_sq/NAME`, `step/NAME` for every trained parameter
    weights.safetensors     what the policy's own weights do not say exactly: the trained parameters of a checkpoint; for a policy
                            in half precision its float32 masters; for an adapter itself and the layers it adapts, unmerged
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptArtifact
from ratchet.identity import canonical, digest, file_sha256

FOLDER = "training_state"
TENSORS = ("optimizer.safetensors", "weights.safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in training. Randomness inside a step is seeded by `seed` and `cursor`, so it has no state of its own."""

    step: int
    """Optimizer steps taken in the schedule so far."""
    seed: int
    """Of the order in which the rows are read."""
    cursor: int
    """Rows of that order that were read."""
    rows: str
    """Digest of the rows the order is of."""
    schedule: str
    """Digest of the schedule the step is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """A position with its tensors, each on the CPU."""

    position: Position
    optimizer: Mapping[str, Any]
    weights: Mapping[str, Any]
    extra: Mapping[str, Any]
    """JSON that its writer wants back."""


def weights_digest(folder: Path) -> str:
    """Digest of the weights that a policy's folder holds."""
    return digest({path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))})


def save(state: TrainingState, folder: Path) -> None:
    """Write a state into an existing, empty folder."""
    from safetensors.torch import save_file

    for name, tensors in zip(TENSORS, (state.optimizer, state.weights), strict=True):
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in sorted(tensors.items())}, folder / name)
    files = {name: file_sha256(folder / name) for name in TENSORS}
    (folder / "state.json").write_bytes(canonical({"position": asdict(state.position), "files": files, "extra": dict(state.extra)}) + b"\n")


def load(folder: Path) -> TrainingState:
    """Read a state that `save` wrote; a torn or altered one is a `CorruptArtifact`."""
    from safetensors.torch import load_file

    try:
        document = json.loads((folder / "state.json").read_bytes())
        torn = [name for name, sha256 in document["files"].items() if file_sha256(folder / name) != sha256]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptArtifact(f"the training state in {folder} cannot be read: {error}") from error
    if torn:
        raise CorruptArtifact(f"the training state in {folder} is torn: {', '.join(torn)} differ from state.json")
    optimizer, weights = (load_file(folder / name) for name in TENSORS)
    return TrainingState(position=Position(**document["position"]), optimizer=optimizer, weights=weights, extra=document["extra"])


def save_checkpoint(state: TrainingState, folder: Path, step: int, *, keep: int = 2) -> None:
    """Write a checkpoint beside the others, whole or not at all, and drop all but the newest `keep`."""
    draft, final = folder / f"draft-{os.getpid()}", folder / f"{step:09d}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save(state, draft)
    for file in (*draft.iterdir(), draft):
        _sync(file)
    draft.rename(final)
    _sync(folder)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def newest_checkpoint(folder: Path, *, work: str) -> TrainingState | None:
    """The newest whole checkpoint of the same work; drafts, torn ones and those of other work are removed."""
    for draft in folder.glob("draft-*"):
        shutil.rmtree(draft)
    for path in reversed(_checkpoints(folder)):
        try:
            state = load(path)
        except CorruptArtifact:
            state = None
        if state is not None and state.extra.get("work") == work:
            return state
        shutil.rmtree(path)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
