"""A measured number with its confidence interval: `name`, `name.low`, `name.high`."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Of what is known of each problem, under the assumption that the problems are independent draws from their source."""

    confidence: float
    resamples: int
    seed: int

    def share(self, name: str, held: Sequence[bool]) -> dict[str, float]:
        """The share of problems of which something holds, by Wilson's interval: sound at 0, at 1 and for few problems."""
        from scipy.stats import binomtest

        interval = binomtest(sum(held), len(held)).proportion_ci(self.confidence, method="wilson")
        return {name: sum(held) / len(held), f"{name}.low": float(interval.low), f"{name}.high": float(interval.high)}

    def mean(self, name: str, values: Sequence[float]) -> dict[str, float]:
        """The mean over problems, by the percentile bootstrap; no value, no metric; one value, no interval."""
        import numpy as np
        from scipy.stats import bootstrap

        if len(values) < 2:
            return {name: float(values[0])} if values else {}
        drawn = bootstrap(
            (np.asarray(values, dtype=float),),
            np.mean,
            n_resamples=self.resamples,
            batch=max(1, 1_000_000 // len(values)),  # 8 MB at a time
            confidence_level=self.confidence,
            method="percentile",
            rng=np.random.default_rng(self.seed),
        ).confidence_interval
        return {name: fmean(values), f"{name}.low": float(drawn.low), f"{name}.high": float(drawn.high)}
