"""An algorithm's own loss on data that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stages.algorithms.base import Algorithm
from stages.algorithms.batch import batch_of
from stages.data.examples import Example


@torch.no_grad()
def mean_losses(algorithm: Algorithm, examples: Sequence[Example], max_tokens: int) -> dict[str, float]:
    """Loss and metrics per unit, as `eval/...`; nothing where there are no examples."""
    if not examples:
        return {}
    losses = [algorithm(part) for part in batch_of(examples).split(max_tokens)]
    weight = max(sum(float(loss.weight) for loss in losses), 1e-12)
    names = losses[0].metrics
    means = {name: sum(float(loss.metrics[name]) for loss in losses) / weight for name in names}
    means["loss"] = sum(float(loss.total) for loss in losses) / weight
    return {f"eval/{name.split('/')[-1]}": mean for name, mean in means.items()}
