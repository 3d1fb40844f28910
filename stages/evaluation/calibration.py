"""Whether the reward model is right as often as it is sure: its probabilities against the verifier."""

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
    """Pairs of like certainty."""

    predicted: float  # mean probability that the model gives to its own choice, 0.5 to 1
    observed: float  # share of these choices that are right
    pairs: int


def reliability(margins: Float[Tensor, " pairs"], bins: int = BINS) -> list[Bin]:
    """Bins of about equally many pairs, by the certainty sigmoid(|r_i - r_j|) of Bradley and Terry's model.

    `margins` are rewards of right completions less those of wrong ones, not normalised. Equal certainties share a bin;
    one that gets none is left out.
    """
    certainty = torch.sigmoid(margins.abs()).double().numpy()
    right = agreement(margins).double().numpy()
    edges = np.quantile(certainty, np.linspace(0, 1, bins + 1)[1:-1])
    index = np.searchsorted(edges, certainty)
    members = [index == number for number in np.unique(index)]
    return [Bin(float(certainty[m].mean()), float(right[m].mean()), int(m.sum())) for m in members]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: the mean distance of predicted and observed shares (Guo et al. 2017, eq. 5)."""
    total = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.predicted - one.observed) for one in bins) / total
