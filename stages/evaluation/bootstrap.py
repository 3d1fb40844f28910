"""Percentile bootstrap over prompts (Efron 1979): how far a mean would move with other prompts.

Not for shares: of 0 right answers among 200 every resample is 0, too (stages/statistics/proportions.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.statistics.interval import Interval

CHUNK = 1_000_000  # resampled values in memory at once


@dataclass(frozen=True)
class Bootstrap:
    """Every statistic is resampled with the same seed: over equally many prompts, with the same prompts."""

    samples: int
    confidence: float
    seed: int

    def mean(self, values: Sequence[float]) -> Interval:
        """The mean of one value per prompt."""
        return self.ratio(values, [1.0] * len(values))

    def ratio(self, totals: Sequence[float], weights: Sequence[float]) -> Interval:
        """`sum(totals) / sum(weights)`: a mean per token, where each prompt brings a sum and its tokens.

        Without bounds where all prompts agree, or there is one, for resampling them says nothing of others; and
        where a value is not finite.
        """
        total, weight = np.asarray(totals, np.float64), np.asarray(weights, np.float64)
        mean = float(total.sum() / weight.sum())
        if not np.isfinite(mean) or np.ptp(total / weight) == 0:
            return {"mean": mean, "low": None, "high": None}
        generator = np.random.default_rng(self.seed)
        rows = max(1, CHUNK // len(total))
        ratios: list[np.ndarray] = []
        for start in range(0, self.samples, rows):
            chosen = generator.integers(len(total), size=(min(rows, self.samples - start), len(total)))
            ratios.append(total[chosen].sum(1) / weight[chosen].sum(1))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
        return {"mean": mean, "low": float(low), "high": float(high)}
