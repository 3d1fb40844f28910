"""AdamW and its schedule, by transformers' names."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from stages.config.schema import TrainingSettings


def make_optimizer(module: nn.Module, settings: TrainingSettings) -> AdamW:
    """AdamW on what is trainable; vectors (norms, biases) are never decayed."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return AdamW(
        [group for group in groups if group["params"]], settings.learning_rate, betas, settings.adam_epsilon, fused=True
    )


def make_scheduler(optimizer: AdamW, settings: TrainingSettings, steps: int) -> LRScheduler:
    """One step of the schedule per batch of examples, not per minibatch of its experience."""
    warmup = round(settings.warmup_ratio * steps)
    return get_scheduler(settings.lr_scheduler_type, optimizer, warmup, steps)
