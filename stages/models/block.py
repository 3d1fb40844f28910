"""The norms and the gated MLP of the common transformer block, with backwards that keep less of the forward.

What autograd keeps of them as transformers writes them is over half of a block's activations: here a norm keeps its
input and one number per token, and a gated MLP its two branches, whose product is made again when it is needed.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NORMS = ("input_layernorm", "post_attention_layernorm")
BLOCK = {"self_attn", "mlp", *NORMS}
GATED_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class _RMSNorm(torch.autograd.Function):
    """x / rms(x) * weight (Zhang and Sennrich 2019, eq. 4), of float32, as `dtype`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        squared = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_()
        scale = squared.div_(states.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(states, weight, scale)
        return (states * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """With n = x / rms(x) and g = gradient * weight: dx = (g - n * mean(g * n)) / rms(x)."""
        states, weight, scale = ctx.saved_tensors
        normal = states * scale
        weighted = normal * gradient
        with torch.autocast(states.device.type, enabled=False):  # it would take this product in bf16
            shift = (weighted @ weight).div_(-states.shape[-1]).unsqueeze(-1)
        found = (gradient * weight).addcmul_(normal, shift).mul_(scale)
        return found, weighted.flatten(0, -2).sum(0), None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up (SwiGLU without its products; Shazeer 2020, eq. 6)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


def keep_less(model: nn.Module) -> None:
    """Give each block of `model` that is a common one these forwards, in place. Others stay: other norms (Gemma's),
    more of them (OLMo 2's), other activations. A compiled block runs as transformers writes it."""
    blocks: list[Any] = list(model.modules())
    for block in blocks:
        if {name for name, _ in block.named_children()} == BLOCK:
            for name in NORMS:
                _replace(getattr(block, name), _norm_forward)
            if {name for name, _ in block.mlp.named_children()} == GATED_MLP:
                _replace(block.mlp, _mlp_forward)


def _replace(module: Any, forward: Any) -> None:
    """Unless `module` is found to compute something else."""
    weight = next(module.parameters())
    states = torch.linspace(-1, 2, 3 * weight.shape[-1], dtype=weight.dtype, device=weight.device).view(3, -1)
    with torch.no_grad():
        expected = type(module).forward(module, states)
        try:
            same = torch.allclose(forward(module, states), expected, rtol=1e-3, atol=1e-4)
        except (AttributeError, TypeError):
            return
    if same:
        module.forward = MethodType(forward, module)


def _norm_forward(self: Any, states: Tensor) -> Tensor:
    """Nothing but linear layers reads it: what autocast would make of it for each of them is made once."""
    if states.dtype != torch.float32 or torch.compiler.is_compiling():
        return type(self).forward(self, states)
    device = states.device.type
    narrow = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if narrow else states.dtype
    return _RMSNorm.apply(states, self.weight, self.variance_epsilon, dtype)  # type: ignore[return-value]


def _mlp_forward(self: Any, states: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return type(self).forward(self, states)
    gate, up = self.gate_proj(states), self.up_proj(states)
    product: Any = _Gated.apply(gate, up)
    # what checkpointing keeps is not ours to say
    if not product.requires_grad or torch._C._autograd._top_saved_tensors_default_hooks(False):  # type: ignore[attr-defined]
        return self.down_proj(product)
    with _made_again(product, gate, up):
        return self.down_proj(product)


def _made_again(product: Tensor, gate: Tensor, up: Tensor) -> torch.autograd.graph.saved_tensors_hooks:
    """Where an operation would keep `product`, or a view of it, for its backward, it is computed anew there."""
    place = product.data_ptr()

    def pack(saved: Tensor) -> Any:
        return (gate, up, saved.shape) if saved.data_ptr() == place else saved

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else F.silu(kept[0]).mul_(kept[1]).view(kept[2])

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
