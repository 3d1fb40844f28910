"""Paired differences: shares, means, and means per unit."""

from __future__ import annotations

from math import nan

import pytest
from scipy.stats import norm

from stages.statistics.paired import paired_difference

ONES = [1.0] * 64


def shares(gained: int, lost: int, total: int = 64) -> tuple[list[float], list[float]]:
    """Values and others, of which `gained` and `lost` differ."""
    rest = total - gained - lost
    return [1.0] * gained + [0.0] * lost + [1.0] * rest, [0.0] * gained + [1.0] * lost + [1.0] * rest


@pytest.mark.parametrize(
    ("gained", "lost", "low", "high"),
    [
        (0, 0, -0.0566, 0.0566),
        (5, 3, -0.0652, 0.1326),
        (2, 14, -0.3105, -0.0742),
    ],
)
def test_shares_have_tango_s_interval(gained: int, lost: int, low: float, high: float) -> None:
    values, others = shares(gained, lost)
    found = paired_difference(values, others, ONES, 0.95)
    assert found["mean"] == (gained - lost) / 64
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=5e-4)


def test_means_have_the_normal_one() -> None:
    """Half of 32 rise by 1, half by 3: 2, with a standard deviation of sqrt(32 / 31) and an error of 0.1796."""
    found = paired_difference([1.0] * 16 + [3.0] * 16, [0.0] * 32, [1.0] * 32, 0.95)
    half = norm.ppf(0.975) * 0.179605
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)


def test_a_mean_per_unit_weighs_its_examples() -> None:
    """15 blocks of 1 token rise by 4 each, 15 of 3 tokens not at all: 60 over 60 tokens. Residuals are 3 and -3."""
    found = paired_difference([4.0] * 15 + [0.0] * 15, [0.0] * 30, [1.0] * 15 + [3.0] * 15, 0.95)
    half = norm.ppf(0.975) * 3 * (30 * 30 / 29) ** 0.5 / 60
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((1, 1 - half, 1 + half), abs=1e-9)


@pytest.mark.parametrize(
    "values",
    [[0.5] * 29 + [3.0], [0.5] * 64, [nan] + [0.5] * 63],
    ids=["29 and one: 30 are enough", "all alike", "not a number"],
)
def test_where_nothing_is_known_there_are_no_bounds(values: list[float]) -> None:
    found = paired_difference(values, [0.0] * len(values), [1.0] * len(values), 0.95)
    assert (found["low"] is None) == (found["high"] is None) == (len(values) != 30)
    few = paired_difference(values[:29], [2.0] * 29, [1.0] * 29, 0.95)
    assert few["low"] is None and few["high"] is None
