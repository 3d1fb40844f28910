"""Intervals of shares: against other implementations, and how often they hold the truth, summed exactly."""

from __future__ import annotations

from math import lgamma, log, sqrt

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from stages.evaluation.bootstrap import Bootstrap
from stages.statistics.interval import Interval
from stages.statistics.proportions import tango, wilson


def bounds(interval: Interval) -> tuple[float, float]:
    low, high = interval["low"], interval["high"]
    assert low is not None and high is not None
    return low, high


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 200, 0.0, 0.018846),
        (200, 200, 0.981154, 1.0),
        (1, 50, 0.003539, 0.104954),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (1, 1, 0.206549, 1.0),
    ],
)
def test_wilson_is_that_of_others(count: int, total: int, low: float, high: float) -> None:
    assert bounds(wilson(count, total, 0.95)) == pytest.approx((low, high), abs=5e-5)
    peer = binomtest(count, total).proportion_ci(0.9, method="wilson")
    assert bounds(wilson(count, total, 0.9)) == pytest.approx((peer.low, peer.high), abs=1e-12)


@pytest.mark.parametrize(("total", "worst"), [(50, 0.895), (200, 0.920), (1000, 0.938)])
def test_wilson_covers_from_half_a_percent_to_98(total: int, worst: float) -> None:
    """95 % on average over the true shares; at some of them less, for counts are whole numbers."""
    found = np.array([bounds(wilson(count, total, 0.95)) for count in range(total + 1)])
    truths = np.arange(0.005, 0.98001, 0.0005)
    covers = [
        binom.pmf(np.arange(total + 1), total, p)[(found[:, 0] <= p) & (p <= found[:, 1])].sum()
        for p in truths
    ]
    assert np.mean(covers) == pytest.approx(0.95, abs=0.003)
    assert min(covers) >= worst


def test_a_bootstrap_of_shares_would_not_cover() -> None:
    """Why there is another interval: of 50 answers of which 2 % are right, it holds the truth in 63 % of cases."""
    bootstrap = Bootstrap(2000, 0.95, 0)
    covered = 0.0
    for count in range(51):
        found = bootstrap.mean([1.0] * count + [0.0] * (50 - count))
        if found["low"] is not None and found["high"] is not None and found["low"] <= 0.02 <= found["high"]:
            covered += binom.pmf(count, 50, 0.02)
    assert covered < 0.64


@pytest.mark.parametrize(
    ("gained", "lost", "total", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # Bentur et al. 2009, in Fagerland, Lydersen and Laake 2014
        (0, 0, 200, -0.018845, 0.018845),  # nothing differs: Wilson's bound for 0 of 200, on both sides
        (0, 5, 5, -1.0, -0.131035),
    ],
)
def test_tango_is_that_of_others(gained: int, lost: int, total: int, low: float, high: float) -> None:
    assert bounds(tango(gained, lost, total, 0.95)) == pytest.approx((low, high), abs=5e-4)
    assert bounds(tango(lost, gained, total, 0.95)) == pytest.approx((-high, -low), abs=5e-4)


@pytest.mark.parametrize(("gained", "lost", "total"), [(40, 20, 160), (12, 2, 50), (1, 0, 30)])
def test_tango_inverts_a_score_test(gained: int, lost: int, total: int) -> None:
    """At each bound the score test, with the other share fitted by a search, is at its 2.5 % point."""
    for bound in bounds(tango(gained, lost, total, 0.95)):

        def misfit(share: float, bound: float = bound) -> float:
            shares = (share + bound, share, 1 - 2 * share - bound)
            counts = (gained, lost, total - gained - lost)
            return -sum(n * log(max(s, 1e-300)) for n, s in zip(counts, shares, strict=True) if n)

        limits = (max(0.0, -bound), (1 - bound) / 2)
        share = minimize_scalar(misfit, bounds=limits, method="bounded", options={"xatol": 1e-12}).x
        score = (gained - lost - total * bound) / sqrt(total * (2 * share + bound - bound**2))
        assert abs(score) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize(
    ("total", "gained", "lost", "least"),
    [
        (50, 0.005, 0.005, 0.99), (50, 0.02, 0.0, 0.99), (50, 0.1, 0.02, 0.95), (50, 0.25, 0.05, 0.95),
        (200, 0.005, 0.005, 0.98), (200, 0.02, 0.0, 0.93), (200, 0.05, 0.05, 0.947),
    ],
)  # fmt: skip
def test_tango_covers(total: int, gained: float, lost: float, least: float) -> None:
    covered = 0.0
    for more, less, chance in outcomes(total, gained, lost):
        low, high = bounds(tango(more, less, total, 0.95))
        covered += chance * (low <= gained - lost <= high)
    assert covered >= least


def outcomes(total: int, gained: float, lost: float) -> list[tuple[int, int, float]]:
    """The pairs of counts of a trinomial that come up, and how often."""
    found = []
    for more in range(total + 1):
        for less in range(total - more + 1):
            counts, shares = (more, less, total - more - less), (gained, lost, 1 - gained - lost)
            if any(n and not s for n, s in zip(counts, shares, strict=True)):
                continue
            logs = [n * log(s) - lgamma(n + 1) for n, s in zip(counts, shares, strict=True) if n]
            chance = float(np.exp(lgamma(total + 1) + sum(logs)))
            if chance > 1e-6:
                found.append((more, less, chance))
    return found
