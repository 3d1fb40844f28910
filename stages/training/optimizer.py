"""AdamW and its schedule, by transformers' names."""

from __future__ import annotations

from collections import defaultdict

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from stages.algorithms.base import Algorithm
from stages.config.schema import TrainingSettings


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


def make_scheduler(optimizer: AdamW, settings: TrainingSettings, steps: int) -> LRScheduler:
    """One step of the schedule per batch of examples, not per minibatch of its experience."""
    warmup = round(settings.warmup_ratio * steps)
    return get_scheduler(settings.lr_scheduler_type, optimizer, warmup, steps)
