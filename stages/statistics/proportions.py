"""Intervals of shares. They hold near 0 and 1, and where nothing differs, where a bootstrap has no width."""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, inf, sqrt
from statistics import NormalDist

from stages.statistics.interval import Interval

HALVINGS = 50  # of [-1, 1]: to 2e-15


def wilson(count: int, total: int, confidence: float) -> Interval:
    """The share `count / total` with its score interval (Wilson 1927, eq. 4 of Brown, Cai and DasGupta 2001)."""
    z, share = quantile(confidence), count / total
    shrunk = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrunk
    half = z / shrunk * sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # At 0 and 1 a bound is the share itself, which rounding may miss.
    return {"mean": share, "low": max(0.0, centre - half) if count else 0.0,
            "high": min(1.0, centre + half) if count < total else 1.0}  # fmt: skip


def tango(gained: int, lost: int, total: int, confidence: float) -> Interval:
    """The difference `(gained - lost) / total` of two shares over the same prompts, with its score interval
    (Tango 1998, eq. 7): the differences that a score test does not reject."""
    z = quantile(confidence)

    def score(difference: float) -> float:
        a = 2 * total
        b = -gained - lost + (2 * total - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        lost_share = (sqrt(max(0.0, b**2 - 4 * a * c)) - b) / (2 * a)  # most likely under this difference
        variance = total * (2 * lost_share + difference * (1 - difference))
        distance = gained - lost - total * difference
        return distance / sqrt(variance) if variance > 0 else copysign(inf, distance) if distance else 0.0

    low, high = crossing(score, z), crossing(score, -z)
    return {"mean": (gained - lost) / total, "low": low, "high": high}


def crossing(falling: Callable[[float], float], target: float) -> float:
    """Where a falling function of [-1, 1] reaches `target`: by halves."""
    low, high = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > target else (low, middle)
    return (low + high) / 2


def quantile(confidence: float) -> float:
    """Of the normal distribution: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)
