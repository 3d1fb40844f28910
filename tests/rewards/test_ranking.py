"""Pairs of one prompt, one right and one wrong: by hand, and against scikit-learn's area under the curve."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from stages.rewards.ranking import agreement, right_wrong_pairs

SCORES = torch.tensor(
    [[3.0, 1.0, 2.0, 2.0], [9.0, 9.0, 8.0, 7.0], [1.0, 1.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
)
RIGHT = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()


def test_pairs_by_hand():
    """3 and 2 against 1 and 2, then 1 against 1, 5 and 0; all right and all wrong bring none."""
    pairs = right_wrong_pairs(SCORES, RIGHT)
    assert pairs.prompts.tolist() == [0, 0, 0, 0, 2, 2, 2]
    assert pairs.margins.tolist() == [2.0, 1.0, 1.0, 0.0, 0.0, -4.0, 1.0]
    assert agreement(pairs.margins).tolist() == [1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 1.0]


def test_no_pairs():
    for rows in (slice(1, 2), slice(3, 4)):
        pairs = right_wrong_pairs(SCORES[rows], RIGHT[rows])
        assert pairs.margins.tolist() == [] and agreement(pairs.margins).isnan().sum() == 0
    assert right_wrong_pairs(torch.ones(3, 1), torch.ones(3, 1).bool()).margins.tolist() == []


def test_within_one_prompt_it_is_the_area_under_the_curve():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (1, 40), generator=generator).float()  # with ties
    right = torch.rand(1, 40, generator=generator) < 0.4
    found = agreement(right_wrong_pairs(scores, right).margins).mean()
    assert float(found) == pytest.approx(roc_auc_score(right[0].numpy(), scores[0].numpy()), abs=1e-6)
