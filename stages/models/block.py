"""The norms and the gated MLP of the common transformer block, with backwards that keep less of the forward.

What autograd keeps of them as transformers writes them is over half of a block's activations: here a norm keeps its
input and one number per token, and a gated MLP its two branches. A norm's output and the branches' product are made
again when they are needed.

States are [*batch, hidden] throughout; not in types, whose checks in the tests a compiler cannot trace.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from stages.models.again import made_again
from stages.models.linear import LINEAR, keep_no_copies

NORMS = ("input_layernorm", "post_attention_layernorm")
BLOCK = {"self_attn", "mlp", *NORMS}
GATED_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * weight (Zhang and Sennrich 2019, eq. 4), as `dtype`."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        squared = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
        scale = squared.div_(states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _scaled(states, scale, weight, dtype), scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """With n = x / rms(x) and g = gradient * weight: dx = (g - n * mean(g * n)) / rms(x)."""
        states, weight, scale = ctx.saved_tensors
        normal = states * scale
        weighted = normal * gradient
        with torch.autocast(states.device.type, enabled=False):  # it would take this product in bf16
            shift = torch.mv(weighted.flatten(0, -2), weight).div_(-states.shape[-1]).view_as(scale)
        found = (gradient * weight).addcmul_(normal, shift).mul_(scale)
        return found, weighted.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None, None


def _scaled(states: Tensor, scale: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return (states * scale).mul_(weight).to(dtype)


class _Gated(torch.autograd.Function):
    """silu(gate) * up (SwiGLU without its products; Shazeer 2020, eq. 6)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate).mul_(up)


class LeanNorm(nn.Module):
    """Nothing but linear layers reads it: what autocast would make of it for each of them is made once."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, states: Tensor) -> Tensor:
        if not states.dtype == self.weight.dtype == torch.float32 or torch.compiler.is_compiling():
            return super().forward(states)
        device = states.device.type
        narrow = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if narrow else states.dtype
        normal, scale = _RMSNorm.apply(states, self.weight, self.variance_epsilon, dtype)  # type: ignore[misc]
        if normal.requires_grad:
            normal.make = partial(_scaled, states.detach(), scale, self.weight.detach(), dtype)
        return normal


def _reading(normal: Tensor) -> AbstractContextManager[Any]:
    """For the layers that read a lean norm's output."""
    make = getattr(normal, "make", None)
    return made_again(normal, make) if make else nullcontext()


class LeanAttention(nn.Module):
    """Its projections keep what a lean norm's output is made of, not the output."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if torch.compiler.is_compiling() else _reading(hidden_states):
            return super().forward(hidden_states, *args, **kwargs)


class LeanMLP(nn.Module):
    """SwiGLU (Shazeer 2020, eq. 6) that keeps its two branches, not their product, nor a lean norm's output."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, states: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(states)
        with _reading(states):
            gate, up = self.gate_proj(states), self.up_proj(states)
        product: Any = _Gated.apply(gate, up)
        with made_again(product, partial(_gated, gate.detach(), up.detach())):
            return self.down_proj(product)


def keep_less(model: PreTrainedModel) -> None:
    """Give each block of `model` that is a common one these forwards, in place, and every linear layer its lean one.
    Other blocks stay: other norms (Gemma's), more of them (OLMo 2's), other activations, experts. A compiled block runs
    as transformers writes it."""
    keep_no_copies(model)
    blocks: list[Any] = list(model.modules())
    for block in blocks:
        if _children(block) == BLOCK:
            gated = _is_gated(block.mlp)
            for name in NORMS if gated else NORMS[:1]:  # a router of experts is no linear layer
                if _is_norm(getattr(block, name)):
                    _replace(getattr(block, name), LeanNorm)
            if gated:
                _replace(block.mlp, LeanMLP)
            if isinstance(block.input_layernorm, LeanNorm) and not isinstance(block.self_attn, LeanAttention):
                block.self_attn.__class__ = _leaner(type(block.self_attn), LeanAttention)


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _is_norm(module: nn.Module) -> bool:
    weights = {name for name, _ in module.named_parameters()}
    return weights == {"weight"} and hasattr(module, "variance_epsilon")


def _is_gated(mlp: Any) -> bool:
    if _children(mlp) != GATED_MLP:
        return False
    points = torch.linspace(-4, 4, 33)
    linear = all(type(each) in LINEAR for each in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    return linear and torch.allclose(mlp.act_fn(points), F.silu(points))


@torch.no_grad()
def _replace(module: nn.Module, lean: type[nn.Module]) -> None:
    """Unless it then computes something else. By its class: a method of its own would be a cycle, and the weights of a
    deleted model would stay until the collector comes."""
    kind = type(module)
    if issubclass(kind, lean):
        return
    weight = next(module.parameters())
    states = torch.linspace(-1, 2, 3 * weight.shape[-1], dtype=weight.dtype, device=weight.device).view(3, -1)
    expected = module(states)
    module.__class__ = _leaner(kind, lean)
    most = float(expected.abs().max())
    if not (most and torch.allclose(module(states), expected, rtol=1e-3, atol=1e-4 * most)):
        module.__class__ = kind


@cache
def _leaner(kind: type[nn.Module], lean: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (lean, kind), {})
