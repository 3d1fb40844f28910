"""AdamW and its schedule, by transformers' names."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from stages.algorithms.base import Algorithm
from stages.config.schema import SchedulerName, TrainingSettings


def make_optimizer(algorithm: Algorithm, settings: TrainingSettings) -> AdamW:
    """AdamW on what is trainable; vectors (norms, biases) are not decayed, and fresh heads have their own rate."""
    fresh = {
        id(parameter): rate for module, rate in algorithm.fresh_heads() for parameter in module.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in algorithm.parameters():
        if parameter.requires_grad:
            decay = settings.weight_decay if parameter.dim() >= 2 else 0.0
            groups[fresh.get(id(parameter), settings.learning_rate), decay].append(parameter)
    return AdamW(
        [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()],
        betas=(settings.adam_beta1, settings.adam_beta2), eps=settings.adam_epsilon, fused=True,
    )  # fmt: skip


def make_scheduler(optimizer: AdamW, settings: TrainingSettings, steps: int) -> LambdaLR:
    """One step of the schedule per batch of examples, not per minibatch of its experience."""
    warmup = round(settings.warmup_ratio * steps)
    return LambdaLR(optimizer, partial(rate_factor, settings.lr_scheduler_type, warmup=warmup, steps=steps))


def rate_factor(kind: SchedulerName, step: int, *, warmup: int, steps: int) -> float:
    """The share of the peak step size that step `step` (from 0) takes.

    It falls as transformers' schedules do. It rises in equal parts from the first step on, where theirs begin at 0: a
    batch with a step size of 0 is sampled and scored for nothing.
    """
    if kind != "constant" and step < warmup:
        return (step + 1) / (warmup + 1)
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    match kind:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (1 - left)))
        case _:
            return 1.0
