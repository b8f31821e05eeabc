"""One run per combination of some dials, as one named group: shared stages are computed once, and the whole is one comparison.

A config's `sweep: {KEY: [VALUE, …]}` says which. Seeds are what is averaged over; every other key is what is compared.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet.errors import InputError
from ratchet.flows.compose import compose, science
from ratchet.flows.summary import RunSummary
from ratchet.identity import digest

Point = dict[str, Any]


def as_sweep(overrides: Sequence[str]) -> list[str]:
    """`KEY=a,b` (Hydra's multirun syntax, ranges and choices too) as the one `sweep={KEY: [a, b]}` that says the same."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    plain, axes = list[str](), list[str]()
    for word in overrides:
        try:
            (parsed,) = OverridesParser.create().parse_overrides([word])
        except HydraException:
            raise InputError(f"cannot read the override {word!r}", allowed="KEY=VALUE, or KEY=VALUE,VALUE,… for one run each") from None
        if parsed.is_sweep_override():
            axes.append(f"{parsed.get_key_element()}: [{', '.join(parsed.sweep_string_iterator())}]")
        else:
            plain.append(word)
    if not axes:
        raise InputError("a sweep is over something", got=" ".join(overrides), next="give at least one KEY=VALUE,VALUE,… such as seed=1,2,3")
    return [*plain, f"sweep={{{', '.join(axes)}}}"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a sweep."""

    point: Point
    name: str
    config: dict[str, Any]
    overrides: Sequence[str]


def members(config: Mapping[str, Any], overrides: Sequence[str], config_dir: Path | None, name: str | None) -> list[Member]:
    """The runs that a config's `sweep` stands for, in a fixed order: the seed turns slowest, so that a part is comparable too."""
    axes: Mapping[str, Sequence[Any]] = config["sweep"]
    if not isinstance(axes, Mapping) or not all(isinstance(values, list) and values for values in axes.values()):
        raise InputError("`sweep` must map keys to lists of values", got=axes, allowed="{KEY: [VALUE, …]}, such as {seed: [1, 2, 3]}")
    keys = sorted(axes, key=lambda key: key != "seed")
    group = name or config.get("name") or f"sweep-{'-'.join(keys)}-{digest([science(config), axes])[:6]}"
    found = []
    for values in itertools.product(*(axes[key] for key in keys)):
        point = dict(zip(keys, values, strict=True))
        words = [*overrides, *(f"{key}={value}" for key, value in point.items()), "sweep=null"]
        member = f"{group}/{','.join(f'{key}={_in_a_name(value)}' for key, value in sorted(point.items()))}"
        found.append(Member(point=point, name=member, config=compose(words, config_dir) | {"name": member}, overrides=words))
    if twins := [name for name, count in Counter(member.name for member in found).items() if count > 1]:
        raise InputError("two runs of the sweep would have one name", got=twins[0], next="give values that differ in more than their slashes")
    return found


def _in_a_name(value: Any) -> str:
    """A value as part of a run's name, in which a slash stands for a folder: `/data/a.jsonl` → `data_a.jsonl`."""
    return re.sub(r"[/\\]+", "_", str(value)).strip("_.") or "_"


@dataclass(frozen=True, kw_only=True)
class Averaged:
    """What the runs of one point, seeds apart, measured in one round."""

    point: Point
    round: int
    metric: str
    values: Sequence[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% Student interval of the mean over seeds; None for a single seed."""
        from scipy import stats

        if len(self.values) < 2:
            return None
        spread = stats.sem(self.values)
        if not spread:
            return self.mean, self.mean
        low, high = stats.t.interval(0.95, len(self.values) - 1, loc=self.mean, scale=spread)
        return float(low), float(high)


def averaged(runs: Sequence[tuple[Point, RunSummary]], metric: str) -> list[Averaged]:
    """A metric per point and round over the seeds that have it."""
    cells: dict[tuple[tuple[str, Any], ...], dict[int, list[float]]] = {}
    for point, run in runs:
        key = tuple((name, value) for name, value in point.items() if name != "seed")
        for row in run.rounds:
            if metric in row.metrics:
                cells.setdefault(key, {}).setdefault(row.round, []).append(row.metrics[metric])
    return [
        Averaged(point=dict(key), round=index, metric=metric, values=values)
        for key, rounds in cells.items()
        for index, values in sorted(rounds.items())
    ]
