"""Sums over processes; the identity where there is one."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(values: Tensor) -> Tensor:
    """All-reduce a tensor by sum."""
    if dist.is_available() and dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """All-reduce a tensor by maximum."""
    if dist.is_available() and dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values
