"""Sure and right: by hand, and against scikit-learn's calibration curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from stages.evaluation.calibration import calibration_error, reliability


def odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_two_bins_by_hand():
    """Certainties 0.6, 0.6, 0.9, 0.9: the first right in half of the cases, the second always."""
    margins = torch.tensor([odds(0.6), -odds(0.6), odds(0.9), odds(0.9)], dtype=torch.float64)
    bins = reliability(margins, bins=2)
    assert [(one.predicted, one.observed, one.pairs) for one in bins] == [
        (pytest.approx(0.6), 0.5, 2), (pytest.approx(0.9), 1.0, 2)
    ]  # fmt: skip
    assert calibration_error(bins) == pytest.approx(0.1)  # (2 * 0.1 + 2 * 0.1) / 4


def test_a_model_that_knows_nothing_is_calibrated():
    bins = reliability(torch.zeros(7))
    assert bins == [(0.5, 0.5, 7)] and calibration_error(bins) == 0


def test_against_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(997, generator=generator, dtype=torch.float64) * 2 + 0.7
    certain, right = torch.sigmoid(margins.abs()).numpy(), (margins > 0).numpy()
    observed, predicted = calibration_curve(right, certain, n_bins=10, strategy="quantile")
    bins = reliability(margins)
    np.testing.assert_allclose([one.predicted for one in bins], predicted)
    np.testing.assert_allclose([one.observed for one in bins], observed)
    assert {one.pairs for one in bins} <= {99, 100, 101} and sum(one.pairs for one in bins) == 997
