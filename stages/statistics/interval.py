"""What a number is known to within, and what its bounds are called."""

from __future__ import annotations

from typing import TypedDict

# Of the three kinds of numbers: shares, differences of shares over the same prompts, and all else.
KINDS = (
    "shares: Wilson's score interval; win rate and differences of accuracy: Tango's score interval for pairs; "
    "the rest: percentile bootstrap over prompts, none where all values are equal"
)


class Interval(TypedDict):
    """A mean and the bounds of its interval; both are None where the values tell nothing of it."""

    mean: float
    low: float | None
    high: float | None
