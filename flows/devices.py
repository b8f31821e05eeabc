"""What a stage's seconds are times: the CPUs and GPUs that its executor gives it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ON_GPU = {"create", "synthesize", "verify", "train"}


def devices(executor: Mapping[str, Any], verb: str, *, gpu_here: bool) -> tuple[int, int]:
    """CPUs and GPUs that an executor, as configured, gives a job of a verb; `gpu_here` says whether jobs on this machine see a GPU."""
    resources = executor.get("resources")
    if resources is None:
        return int(executor.get("cpus_per_task") or 1), int(verb in ON_GPU and gpu_here)
    asked = {**(resources.get("default") or {}), **{k: v for k, v in (resources.get(verb) or {}).items() if v is not None}}
    nodes = int(asked.get("nodes") or 1)
    return int(asked.get("cpus_per_task") or 1) * nodes, int(asked.get("gpus_per_node") or 0) * nodes


def has_gpu() -> bool:
    """Whether this machine's jobs see a GPU, without asking its driver."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and Path("/proc/driver/nvidia/gpus").is_dir()
