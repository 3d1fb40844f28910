"""One optimizer step: microbatches in, one division by the global weight, one clipped update."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.distributed import max_over_ranks, sum_over_ranks


class StepResult(NamedTuple):
    """Sums over the units of one optimizer step, on every rank."""

    loss: float
    weight: float
    grad_norm: float
    metrics: dict[str, float]


class NonFiniteError(RuntimeError):
    """A loss or gradient is infinite or NaN."""


def optimizer_step(
    accelerator: Accelerator,
    module: Algorithm,
    optimizer: Optimizer,
    batch: Batch,
    max_tokens: int,
    max_grad_norm: float,
) -> StepResult:
    """Update on `batch`, whose loss is the sum over all microbatches and ranks over the sum of their weights.

    Raises NonFiniteError before any weight is touched.
    """
    local = _accumulate(accelerator, module, batch.split(max_tokens))
    values = [local.total, local.weight, *local.metrics.values()]
    loss, weight, *metrics = sum_over_ranks(torch.stack([value.double() for value in values])).tolist()
    weight = max(weight, 1e-12)
    # DDP averages gradients over ranks; the loss is a sum over them.
    norm = float(_scale_and_clip(module, accelerator.num_processes / weight, max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise NonFiniteError(f"loss {loss / weight:.4g}, gradient norm {norm:.4g}")
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(loss, weight, norm, dict(zip(local.metrics, metrics, strict=True)))


def _accumulate(accelerator: Accelerator, module: Algorithm, microbatches: list[Batch]) -> Loss:
    """Forward and backward through every microbatch; returns the sum of their losses, detached.

    Every rank runs as many passes as the busiest one, or collective calls would deadlock.
    """
    rounds = int(max_over_ranks(torch.tensor(len(microbatches), device=accelerator.device)))
    parts: list[Loss] = []
    for index in range(rounds):
        share = 1.0 if index < len(microbatches) else 0.0  # an empty microbatch: real shapes, no weight
        # Gradients are exchanged with the last microbatch only.
        with nullcontext() if index == rounds - 1 else accelerator.no_sync(module):
            with accelerator.autocast():
                loss: Loss = module(microbatches[min(index, len(microbatches) - 1)])
            accelerator.backward(loss.total * share)
        metrics = {name: value.detach() * share for name, value in loss.metrics.items()}
        parts.append(Loss(loss.total.detach() * share, loss.weight * share, metrics))
    names = parts[0].metrics
    return Loss(
        torch.stack([part.total for part in parts]).sum(),
        torch.stack([part.weight for part in parts]).sum(),
        {name: torch.stack([part.metrics[name] for part in parts]).sum() for name in names},
    )


def _scale_and_clip(module: Algorithm, scale: float, max_grad_norm: float) -> Tensor:
    """Multiply gradients by `scale` and cut their global norm, in one pass; returns the norm before the cut."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(gradients) * scale
    factor = scale * (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm
