"""An algorithm's own loss on data that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from stages.algorithms.base import Algorithm
from stages.algorithms.batch import batch_of
from stages.data.examples import Example
from stages.training.evaluation import Evaluation

BLOCKS = 32  # enough for an interval; one pass per example would take three times as long


@torch.no_grad()
def mean_losses(algorithm: Algorithm, examples: Sequence[Example], max_tokens: int) -> Evaluation:
    """Loss and metrics per unit, as `eval/...`, with the loss of each of at most 32 blocks of examples in a row;
    nothing where there are no examples. For algorithms whose experience is their examples."""
    if not examples:
        return Evaluation()
    (batch,) = algorithm.experience(batch_of(examples))
    count = min(BLOCKS, len(examples))
    edges = [len(examples) * index // count for index in range(count + 1)]
    blocks = [
        [algorithm(part) for part in batch.take(range(first, last)).split(max_tokens)]
        for first, last in pairwise(edges)
    ]
    losses = [loss for block in blocks for loss in block]
    weight = max(sum(float(loss.weight) for loss in losses), 1e-12)
    names = losses[0].metrics
    means = {name: sum(float(loss.metrics[name]) for loss in losses) / weight for name in names}
    means["loss"] = sum(float(loss.total) for loss in losses) / weight
    metrics = {f"eval/{name.split('/')[-1]}": mean for name, mean in means.items()}
    return Evaluation(
        metrics,
        [sum(float(loss.total) for loss in block) for block in blocks],
        [sum(float(loss.weight) for loss in block) for block in blocks],
    )
