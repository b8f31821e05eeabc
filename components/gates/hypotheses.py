"""The one-sided tests of the gates. Each gives p for a hypothesis `at most so much`, so that a small p says: more.

Items are independent draws from their source, the same for both policies; nothing is said about another training or another draw.
"""

import math
from collections.abc import Sequence


def loss_above(lost: int, gained: int, items: int, margin: float) -> float:
    """p of `the share lost less the share gained is at most margin`, for two policies on the same items.

    With no margin the exact binomial test of McNemar; with one the score test of Tango (Statistics in Medicine 17, 1998), which is too
    easily convinced far out in the tail. So it is given a continuity correction of one item, and is never below the exact binomial
    test for the case that it fits worst, in which nothing is gained; the level then held wherever it was tried (30 to 1000 items).
    """
    if margin == 0 or not items:
        return share_above(lost, lost + gained, 0.5)
    scored = normal_above((lost - gained - items * margin - 1) / _deviation(lost, gained, items, margin))
    return max(scored, share_above(lost - gained, items, margin))


def loss_below(lost: int, gained: int, items: int, margin: float) -> float:
    """p of `the share lost less the share gained is at least margin`, by the same score test; `margin` is above 0."""
    return normal_above((items * margin - lost + gained - 1) / _deviation(lost, gained, items, margin)) if items else 1.0


def _deviation(lost: int, gained: int, items: int, margin: float) -> float:
    """Of lost less gained, where their shares differ by the margin and the shares are otherwise the likeliest."""
    b = -lost - gained + (2 * items - lost + gained) * margin
    c = -gained * margin * (1 - margin)
    gains = (math.sqrt(max(0.0, b * b - 8 * items * c)) - b) / (4 * items)  # the root of 2n q² + B q + C
    return math.sqrt(items * (2 * gains + margin * (1 - margin)))


def share_above(held: int, items: int, share: float) -> float:
    """p of `it holds of at most this share`: the exact binomial test."""
    from scipy.special import bdtrc

    return 1.0 if held <= 0 else 0.0 if share <= 0 else float(bdtrc(held - 1, items, share))


def mean_above(values: Sequence[float], bound: float) -> float:
    """p of `the mean is at most the bound`: Student's t; 1 where there are fewer than two values."""
    from scipy.special import stdtr

    if len(values) < 2:
        return 1.0
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    if variance == 0:
        return 0.0 if mean > bound else 1.0
    return float(stdtr(len(values) - 1, -(mean - bound) / math.sqrt(variance / len(values))))


def trend_above(held: Sequence[int], items: Sequence[int]) -> float:
    """p of `the share does not rise from group to group`: Cochran and Armitage."""
    total, all_held = sum(items), sum(held)
    share = all_held / total if total else 0.0
    times = range(len(items))
    spread = sum(n * t * t for n, t in zip(items, times, strict=True)) - sum(n * t for n, t in zip(items, times, strict=True)) ** 2 / max(total, 1)
    if not 0 < share < 1 or spread <= 0:
        return 1.0
    return normal_above(sum(t * (h - n * share) for t, h, n in zip(times, held, items, strict=True)) / math.sqrt(share * (1 - share) * spread))


def normal_above(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def wilson(held: int, items: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share, of 95 % by default."""
    if not items:
        return 0.0, 1.0
    share, scale = held / items, 1 + z * z / items
    middle, half = share + z * z / (2 * items), z * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false rejection stays at the level, however they depend (Holm 1979)."""
    corrected, highest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def spent(family_wise: float, look: int) -> float:
    """The part of the error that look 1, 2, … may spend: 1/2, 1/6, 1/12, … of it, which sums to all of it over any number of looks."""
    return family_wise / (look * (look + 1))
