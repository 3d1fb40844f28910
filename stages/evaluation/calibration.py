"""How sure the reward model is of its choices, and how often they are right: its probabilities against the verifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from stages.rewards.ranking import agreement

BINS = 10


class Bin(NamedTuple):
    """A group of pairs of which the model is about equally sure."""

    predicted: float  # mean probability that the model gives to its own choice, 0.5 to 1
    observed: float  # share of these choices that are right
    pairs: int


def reliability(margins: Float[Tensor, " pairs"], bins: int = BINS) -> list[Bin]:
    """At most `bins` bins of about equally many pairs, from the least sure to the surest, by the certainty
    sigmoid(|r_i - r_j|) of Bradley and Terry's model.

    `margins`, of one pair or more, are rewards of right completions less those of wrong ones, not normalised: log-odds.
    Pairs of equal certainty share a bin; a bin without pairs is left out.
    """
    certainty = torch.sigmoid(margins.abs()).double().numpy()
    right = agreement(margins).double().numpy()
    edges = np.quantile(certainty, np.linspace(0, 1, bins + 1)[1:-1])
    bin_of_pair = np.searchsorted(edges, certainty)
    members = [bin_of_pair == number for number in np.unique(bin_of_pair)]
    return [Bin(float(certainty[m].mean()), float(right[m].mean()), int(m.sum())) for m in members]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error (Guo et al. 2017, eq. 5), a share of 1: the distance of predicted and observed
    shares, averaged over pairs. `bins` is not empty."""
    total = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.predicted - one.observed) for one in bins) / total
