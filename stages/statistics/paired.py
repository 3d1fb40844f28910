"""How much a mean has changed over the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt

from stages.statistics.interval import Interval
from stages.statistics.proportions import quantile, tango

FEWEST = 30  # examples of which the sum is taken to be normal


def paired_difference(
    values: Sequence[float], others: Sequence[float], weights: Sequence[float], confidence: float
) -> Interval:
    """`sum(values) / sum(weights)` less `sum(others) / sum(weights)`; the three are of the same examples, in order.

    Of shares (0 or 1, each of weight 1) Tango's interval; else the normal one of a ratio (Cochran 1977, section 2.11),
    without bounds below 30 examples, where a value is not finite, or where all examples differ alike.
    """
    changes = [a - b for a, b in zip(values, others, strict=True)]
    if {*values, *others} <= {0.0, 1.0} and set(weights) == {1.0}:
        return tango(changes.count(1.0), changes.count(-1.0), len(changes), confidence)
    count, whole = len(changes), sum(weights)
    mean = sum(changes) / whole
    squares = sum((change - mean * weight) ** 2 for change, weight in zip(changes, weights, strict=True))
    if count < FEWEST or not isfinite(mean) or not squares:
        return {"mean": mean, "low": None, "high": None}
    half = quantile(confidence) * sqrt(squares * count / (count - 1)) / whole
    return {"mean": mean, "low": mean - half, "high": mean + half}
