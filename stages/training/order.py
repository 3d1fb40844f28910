"""Which examples make up which step: a pure function of the seed, so that a resumed run reads on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from transformers import set_seed

from stages.algorithms.batch import Batch, batch_of
from stages.config.schema import TrainingSettings
from stages.data.examples import Example


def total_steps(rows: int, settings: TrainingSettings) -> int:
    """`max_steps` where it is above 0, else as many as `num_train_epochs` need; at least one."""
    if settings.max_steps > 0:
        return settings.max_steps
    return max(1, math.floor(settings.num_train_epochs * rows / min(settings.batch_size, rows)))


def eval_interval(steps: int, settings: TrainingSettings) -> int:
    """Steps between evaluations, 0 where there are none between the first and the last: below 1, `eval_steps` is a
    share of all steps, rounded up as in transformers."""
    every = settings.eval_steps
    return math.ceil(every * steps - 1e-9) if every < 1 else int(every)  # 0.1 * 70 is more than 7


def step_indices(step: int, rows: int, batch_size: int, seed: int) -> list[int]:
    """Rows of global step `step` (from 0): each epoch is a new permutation, its incomplete last batch left out."""
    batch_size = min(batch_size, rows)
    per_epoch = rows // batch_size
    epoch, position = divmod(step, per_epoch)
    return _order(seed, epoch, rows)[position * batch_size : (position + 1) * batch_size].tolist()


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def step_batch(
    examples: Sequence[Example], step: int, settings: TrainingSettings, seed: int, rank: int, ranks: int
) -> Batch:
    """What process `rank` of `ranks` learns from in step `step`."""
    indices = step_indices(step, len(examples), settings.batch_size, seed)
    return batch_of([examples[index] for index in indices[rank::ranks]])


def seed_step(seed: int, step: int, rank: int) -> None:
    """All randomness of a step follows from (seed, step, rank), whatever ran before it."""
    set_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
    torch.use_deterministic_algorithms(True, warn_only=True)
    # With it comes NaN in every new tensor, against reads of what was never written: 8 % of a training step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
