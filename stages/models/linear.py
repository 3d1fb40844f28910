"""Linear layers that are trained in a narrower precision than they are stored in, and keep no narrow copy.

Autocast keeps one of every weight from the forward to the backward: for a model in float32 half its size again, beside
all activations. To narrow all weights once more takes half a percent of a step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel


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
    """What autocast would make of a Linear, for a pass that is differentiated. Compiled, it is one of torch's."""

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        learns = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        wide = self.weight.dtype == torch.float32 and input.dtype != torch.float64  # autocast leaves that
        casts = wide and torch.is_autocast_enabled(device)
        if not (learns and casts) or input.dim() < 2 or torch.compiler.is_compiling():
            return super().forward(input)
        return _Linear.apply(input, self.weight, self.bias, torch.get_autocast_dtype(device))  # type: ignore[return-value]


LINEAR = (nn.Linear, LeanLinear)  # those that are nothing else: quantized layers are kinds of nn.Linear too


def keep_no_copies(model: PreTrainedModel) -> None:
    """Make the linear layers of `model` lean ones, in place, but for the head over the vocabulary: its logits are made
    in chunks, for all of which autocast narrows it once."""
    head = model.get_output_embeddings()
    for layer in model.modules():
        if type(layer) is nn.Linear and layer is not head:
            layer.__class__ = LeanLinear
