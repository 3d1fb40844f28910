"""Several passes over one batch of experience."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stages.algorithms.batch import Batch


def minibatches(batch: Batch, epochs: int, num_mini_batches: int) -> Iterator[Batch]:
    """Each epoch visits every tree once, in a new order, in `num_mini_batches` parts, equal but for one tree."""
    for _ in range(epochs):
        order = torch.randperm(len(batch)).tolist()
        for part in range(min(num_mini_batches, len(batch))):
            yield batch.take(order[part::num_mini_batches])
