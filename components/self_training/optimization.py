"""AdamW with its learning-rate schedule, and its moments by parameter name.

Moments are kept by name, not by position, so that a later stage can take those of the parameters it still has.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

PARTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Linear warm-up to the peak, then cosine, linear or none, down to a share of it; constant after the horizon."""

    kind: Literal["cosine", "linear", "constant"]
    peak: float
    warmup: int
    horizon: int
    final: float

    def ratio(self, step: int) -> float:
        """Share of the peak at which the update after `step` updates is made."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        progress = min(1.0, (step - self.warmup) / max(1, self.horizon - self.warmup))
        fall = 1 - progress if self.kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.final + (1 - self.final) * fall


def trained(model: Any) -> Iterator[tuple[str, Any]]:
    """The parameters that training changes, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def adamw(model: Any, *, learning_rate: float, weight_decay: float, rates: Mapping[str, float] | None = None) -> Any:
    """AdamW over what is trained; matrices decay, gains and biases do not. `rates`: other learning rates, by a name's first part."""
    import torch

    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in trained(model):
        rate = (rates or {}).get(name.partition(".")[0], learning_rate)
        groups.setdefault((rate, weight_decay if parameter.ndim >= 2 else 0.0), []).append(parameter)
    return torch.optim.AdamW([{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()], fused=True)


def moments(model: Any, optimizer: Any) -> dict[str, Any]:
    """The optimizer's tensors as `part/name`."""
    return {f"{part}/{name}": optimizer.state[p][part] for name, p in trained(model) if p in optimizer.state for part in PARTS}


def take_moments(model: Any, optimizer: Any, tensors: Mapping[str, Any]) -> float:
    """Put stored moments back wherever name and shape fit; return the share of the trained numbers that got theirs."""
    taken = total = 0
    for name, parameter in trained(model):
        total += parameter.numel()
        found = {part: tensors[f"{part}/{name}"] for part in PARTS if f"{part}/{name}" in tensors}
        if len(found) == len(PARTS) and found["exp_avg"].shape == parameter.shape:
            optimizer.state[parameter] = {part: tensor.to(parameter.device, copy=True) for part, tensor in found.items()}
            taken += parameter.numel()
    return taken / total if total else 0.0
