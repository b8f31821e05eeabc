"""What can be told from two policies' answers to the same held-out items.

- Items that count 0 or 1: McNemar's test. With fewer than 25 items on which the two differ it is the exact binomial test, else chi-squared
  with the continuity correction (Edwards 1948). The difference's interval is Bonett and Price's (2012), sound where few items differ.
- Items that are rates (pass@k of K samples, SPL): the paired bootstrap. Items are drawn again with replacement, both answers of an item
  together; the interval is the percentile one, p the share of resamples that are as far from the observed difference as that is from 0.
- Many comparisons: Holm's step-down correction. It holds whatever the dependence between the comparisons, and rounds of a run depend.

They are about other items of the same source. That the same training would come out so again, only runs with other seeds can tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

EXACT_BELOW = 25
"""Items that differ, below which McNemar's test is the exact one."""

RESAMPLES = 10_000
SEED = 0
"""Of the bootstrap: the same rows give the same words."""

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two policies on the same items."""

    items: int
    before: float
    after: float
    low: float
    high: float
    """The interval of the difference, not corrected for other comparisons."""
    p: float
    gained: int
    """Items on which `after` is higher."""
    lost: int
    method: str

    @property
    def difference(self) -> float:
        return self.after - self.before


def paired(before: Sequence[float], after: Sequence[float]) -> Paired:
    """Compare two policies' values on the same items, one pair an item: McNemar if all are 0 or 1, else the paired bootstrap."""
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} and {len(after)} values are no pairs")
    gained, lost = (sum(b < a for b, a in zip(before, after, strict=True)), sum(b > a for b, a in zip(before, after, strict=True)))
    single = all(value in (0, 1) for values in (before, after) for value in values)
    if single:
        low, high = bonett_price(gained, lost, len(before))
        p, method = mcnemar(gained, lost), f"McNemar{', exact' if gained + lost < EXACT_BELOW else ''}"
    else:
        low, high, p = paired_bootstrap([a - b for b, a in zip(before, after, strict=True)])
        method = "paired bootstrap"
    means = [math.fsum(values) / len(values) for values in (before, after)]
    return Paired(items=len(before), before=means[0], after=means[1], low=low, high=high, p=p, gained=gained, lost=lost, method=method)


def mcnemar(gained: int, lost: int) -> float:
    """p of McNemar's test, from how many items were gained and how many lost."""
    from scipy.stats import binomtest, chi2

    differing = gained + lost
    if not differing:
        return 1.0
    if differing < EXACT_BELOW:
        return float(binomtest(gained, differing).pvalue)
    return float(chi2.sf((abs(gained - lost) - 1) ** 2 / differing, 1)) if gained != lost else 1.0


def bonett_price(gained: int, lost: int, items: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a difference of two shares of the same items: Wald's, after one item was added to either way of differing."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    up, down = (gained + 1) / (items + 2), (lost + 1) / (items + 2)
    half = z * math.sqrt(max(0.0, (up + down - (up - down) ** 2) / (items + 2)))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def paired_bootstrap(
    differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """(low, high, p) of the mean of the items' differences.

    A resample is how often it drew each value that there is: equal in law to drawing items one by one, and rates of K samples have few.
    """
    import numpy as np

    values, counts = np.unique(np.asarray(differences, dtype=float), return_counts=True)
    if len(values) == 1:
        return float(values[0]), float(values[0]), 1.0 if values[0] == 0 else 1 / (resamples + 1)
    random, size = np.random.default_rng(seed), len(differences)
    batch = max(1, 4_000_000 // len(values))  # 32 MB at a time
    drawn = [random.multinomial(size, counts / size, size=min(batch, resamples - done)) @ values / size for done in range(0, resamples, batch)]
    means = np.concatenate(drawn)
    observed = float(values @ counts / size)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    # A resample equal to the bound up to rounding counts as being as far.
    as_far = np.count_nonzero(np.abs(means - observed) >= abs(observed) - 1e-12)
    return float(low), float(high), float((as_far + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of a family of comparisons, each so large that the chance of any false one stays at the level (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, highest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def wilson(held: int, items: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of a share: sound at 0, at 1 and for few items."""
    from scipy.stats import binomtest

    interval = binomtest(held, items).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def p_words(p: float) -> str:
    places = 4 if p < 0.01 else 3 if p < 0.1 else 2  # so that what is told apart at 0.05 does not read as 0.05
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.{places}f}"


def is_rate(found: Paired) -> bool:
    """Whether its values are shares, to be told in points."""
    return all(0 <= value <= 1 for value in (found.before, found.after))


def difference_words(found: Paired, *, signed: bool = False) -> str:
    """`14.0 points [8.2, 19.9]`, or the plain numbers of a metric that is no share."""
    scale, unit, places = (100, " points", 1) if is_rate(found) else (1, "", 3)
    low, high = (bound if found.difference >= 0 or signed else -bound for bound in (found.low, found.high))
    amount = f"{scale * found.difference:+.{places}f}" if signed else f"{scale * abs(found.difference):.{places}f}"
    return f"{amount}{unit} [{scale * min(low, high):.{places}f}, {scale * max(low, high):.{places}f}]"


def verdict_words(what: str, against: str, found: Paired, p: float, family: int, words: tuple[str, str] = ("better", "worse")) -> str:
    """What is and what is not a difference, as a sentence; `p` is the corrected one of a family of so many comparisons."""
    corrected = f"{p_words(p)} after correction for {family} comparisons" if family > 1 else p_words(p)
    if p < ALPHA:
        side = words[found.difference < 0]
        return f"{what} is {side} than {against} by {difference_words(found)}, {corrected}"
    return f"no difference can be told between {what} and {against}: {difference_words(found, signed=True)}, {corrected}"
