"""Which completions are preferred to which, and which are good or bad by themselves."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stages.algorithms.batch import Batch
from stages.data.examples import has_pair


def preference_pairs(batch: Batch) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Rows of the chosen and of the rejected completion, for every two of one prompt whose scores differ.

    A pair is a ranking of two; a ranking of K gives up to K (K - 1) / 2 pairs (Ouyang et al. 2022, section 3.5).
    """
    chosen: list[int] = []
    rejected: list[int] = []
    first = 0
    for example in batch.examples:
        scores = example.scores or []
        for left, right in combinations(range(len(scores)), 2):
            if scores[left] != scores[right]:
                better, worse = (left, right) if scores[left] > scores[right] else (right, left)
                chosen.append(first + better)
                rejected.append(first + worse)
        first += len(example.tree.completions)
    return torch.tensor(chosen, dtype=torch.long), torch.tensor(rejected, dtype=torch.long)


def desirable(batch: Batch) -> Bool[Tensor, " batch"]:
    """Per completion: better than the middle of its prompt's scores; all of one label: that label is above 0."""
    good: list[bool] = []
    for example in batch.examples:
        scores = example.scores or []
        middle = (min(scores) + max(scores)) / 2 if has_pair(example) else 0.0
        good += [score > middle for score in scores]
    return torch.tensor(good, dtype=torch.bool)
