"""Linear layers that are trained in a narrower precision than they are stored in, and keep no narrow copy.

Autocast keeps one of every weight from the forward to the backward: for a model in float32 half its size again, beside
all activations. To narrow a weight once more takes about a hundredth of a step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Linear(torch.autograd.Function):
    """states W^T + b in `dtype`. States are [*batch, inputs], W is [outputs, inputs], b [outputs]."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        states = states.to(dtype)
        inward, weighs, *_ = ctx.needs_input_grad
        ctx.save_for_backward(states if weighs else None, weight if inward else None)
        return F.linear(states, weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        states, weight = ctx.saved_tensors
        inward, weighs, biased, _ = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            gradient @ weight.to(gradient.dtype) if inward else None,
            rows.T @ states.flatten(0, -2) if weighs else None,
            rows.sum(0) if biased else None,
            None,
        )


class LeanLinear(nn.Linear):
    """What autocast would make of a Linear, for a pass that is differentiated."""

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if not learns or not torch.is_autocast_enabled(device) or torch.compiler.is_compiling():
            return super().forward(input)
        dtype = torch.get_autocast_dtype(device)
        if self.weight.dtype == dtype:
            return super().forward(input)
        with torch.autocast(device, enabled=False):
            return _Linear.apply(input, self.weight, self.bias, dtype)  # type: ignore[return-value]


LINEAR = (nn.Linear, LeanLinear)  # those that are nothing else: quantized layers are kinds of nn.Linear too


def keep_no_copies(module: nn.Module) -> None:
    """Make every linear layer in `module` a lean one, in place."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = LeanLinear
