"""Which examples make up which step: a pure function of the seed, so that a resumed run reads on where it stopped."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import set_seed

from stages.config.schema import TrainingSettings


def total_steps(rows: int, settings: TrainingSettings) -> int:
    """`max_steps` where it is above 0, else as many as `num_train_epochs` need; at least one."""
    if settings.max_steps > 0:
        return settings.max_steps
    return max(1, math.floor(settings.num_train_epochs * rows / min(settings.batch_size, rows)))


def step_indices(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """Rows of global step `step` (from 0): each epoch is a new permutation, its incomplete last batch left out."""
    batch_size = min(batch_size, rows)
    per_epoch = rows // batch_size
    epoch, position = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return order[position * batch_size : (position + 1) * batch_size].tolist()


def seed_step(seed: int, step: int, rank: int) -> None:
    """All randomness of a step follows from (seed, step, rank), whatever ran before it."""
    set_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
    torch.use_deterministic_algorithms(True, warn_only=True)
