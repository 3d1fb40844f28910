"""Percentile bootstrap over prompts (Efron 1979): how far a mean would move with other prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

CHUNK = 1_000_000  # resampled values in memory at once


class Interval(TypedDict):
    """A mean and the bounds of its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Every statistic is resampled with the same seed: over equally many prompts, with the same prompts."""

    samples: int
    confidence: float
    seed: int

    def mean(self, values: Sequence[float]) -> Interval:
        """The mean of one value per prompt."""
        return self.ratio(values, [1.0] * len(values))

    def difference(self, values: Sequence[float], others: Sequence[float]) -> Interval:
        """The mean of `values - others`, paired: both of a pair are of the same prompt."""
        return self.mean([value - other for value, other in zip(values, others, strict=True)])

    def ratio(self, totals: Sequence[float], weights: Sequence[float]) -> Interval:
        """`sum(totals) / sum(weights)`: a mean per token, where each prompt brings a sum and its tokens."""
        total, weight = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
        generator = np.random.default_rng(self.seed)
        rows = max(1, CHUNK // len(total))
        ratios: list[np.ndarray] = []
        for start in range(0, self.samples, rows):
            chosen = generator.integers(len(total), size=(min(rows, self.samples - start), len(total)))
            ratios.append(total[chosen].sum(1) / weight[chosen].sum(1))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
        return {"mean": float(total.sum() / weight.sum()), "low": float(low), "high": float(high)}
