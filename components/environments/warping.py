"""How closely one path follows another, whatever their lengths."""

from collections.abc import Sequence
from math import exp, inf


def ndtw(distances: Sequence[Sequence[float]], near: float) -> float:
    """Normalized dynamic time warping (Ilharco et al., 1907.05446, eq. 5): exp(-DTW / (places of the reference · near)), in (0, 1].

    `distances` is [places of the path, places of the reference]; `near` is the distance at which two places count as near.
    """
    return exp(-_warped(distances) / (len(distances[0]) * near))


def _warped(distances: Sequence[Sequence[float]]) -> float:
    """The least cost of walking two paths side by side, none of them backwards."""
    row = [0.0] + [inf] * len(distances[0])
    for line in distances:
        above, row = row, [inf]
        for column, cost in enumerate(line):
            row.append(cost + min(above[column], above[column + 1], row[column]))
    return row[-1]
