"""One optimizer step: microbatches in, one division by the global weight, one clipped update."""

from __future__ import annotations

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
    """Means over the units of the step, on every rank; `tokens` is a global sum."""

    loss: Tensor
    grad_norm: Tensor
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
    microbatches = batch.split(max_tokens)
    # Every rank must run as many forward and backward passes as the busiest one, or collective calls deadlock.
    rounds = int(max_over_ranks(torch.tensor(len(microbatches), device=accelerator.device)))
    total, weight, metrics = None, None, {}
    for index in range(rounds):
        last = index == rounds - 1
        with accelerator.autocast():
            loss: Loss = module(microbatches[min(index, len(microbatches) - 1)])
        share = 1.0 if index < len(microbatches) else 0.0  # an empty microbatch: real shapes, no weight
        with _sync(accelerator, module, last):
            accelerator.backward(loss.total * share)
        total = _add(total, loss.total.detach() * share)
        weight = _add(weight, loss.weight * share)
        metrics = {
            name: _add(metrics.get(name), value.detach() * share) for name, value in loss.metrics.items()
        }
    assert total is not None and weight is not None
    sums = sum_over_ranks(
        torch.stack([total.double(), weight.double(), *(v.double() for v in metrics.values())])
    )
    loss_sum, weight_sum = sums[0], sums[1].clamp(min=1e-12)
    # DDP and FSDP average gradients over ranks; the loss is a sum over them.
    norm = _scale_and_clip(module, accelerator.num_processes / float(weight_sum), max_grad_norm)
    if not (torch.isfinite(loss_sum) and torch.isfinite(norm)):
        optimizer.zero_grad()
        raise NonFiniteError(f"loss {float(loss_sum / weight_sum):.4g}, gradient norm {float(norm):.4g}")
    optimizer.step()
    optimizer.zero_grad()
    return StepResult(
        loss_sum / weight_sum, norm, dict(zip(metrics, (sums[2:] / weight_sum).tolist(), strict=True))
    )


def _sync(accelerator: Accelerator, module: Algorithm, last: bool):
    """Gradients are exchanged with the last microbatch only."""
    return nullcontext() if last else accelerator.no_sync(module)


def _add(total: Tensor | None, value: Tensor) -> Tensor:
    return value if total is None else total + value


def _scale_and_clip(module: Algorithm, scale: float, max_grad_norm: float) -> Tensor:
    """Multiply gradients by `scale` and cut their global norm, in one pass; returns the norm before the cut."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(gradients) * scale
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # a DTensor under FSDP
    factor = scale * (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm
