"""Linear layers as sampling wants them: adapters merged, in the sampler's precision, side by side in one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

ROWS = 32  # a hint for the order that packed weights are kept in: they serve any number of rows


class Projection:
    """Layers that read the same input. `refresh` takes their weights over; calling gives their outputs, concatenated.

    Weights that are in `dtype` already are used where they are. Others are copied, and then fused to one matrix.
    Raises TypeError for layers that are not plain linear ones, with LoRA or without.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.parts: list[tuple[Tensor, Tensor | None]] = []

    @torch.no_grad()
    def refresh(self) -> None:
        parts = [_effective(layer) for layer in self.layers]
        if all(isinstance(weight, nn.Parameter) and weight.dtype == self.dtype for weight, _ in parts):
            self.parts = parts
            return
        weight = torch.cat([weight.to(self.dtype) for weight, _ in parts])
        biases = [bias.to(self.dtype) for _, bias in parts if bias is not None]
        bias = torch.cat(biases) if biases else None
        if weight.device.type == "cpu":
            self.parts = [(_reordered(weight), bias)]
        elif self.parts:  # in place: a captured graph knows addresses, not tensors
            self.parts[0][0].copy_(weight)
            if bias is not None:
                self.parts[0][1].copy_(bias)  # type: ignore[union-attr]
        else:
            self.parts = [(weight, bias)]

    def release(self) -> None:
        """Let go of copies that the next refresh makes anew."""
        if self.parts and self.parts[0][0].device.type == "cpu":
            self.parts = []

    def __call__(self, states: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        states = states.to(self.dtype)
        outputs = [_linear(states, weight, bias) for weight, bias in self.parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def _effective(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The weight [out, in] and bias [out] that a linear layer stands for, its active LoRA adapters added."""
    base = getattr(layer, "base_layer", layer)
    if type(base) is not nn.Linear or any(getattr(layer, "use_dora", {}).values()):
        raise TypeError(f"{type(layer).__name__} is no plain linear layer")
    weight, bias = base.weight, base.bias
    if isinstance(weight, DTensor):
        raise TypeError("the weights are sharded")
    if base is not layer and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter)
    return weight, bias


def _reordered(weight: Tensor) -> Tensor:
    """Once per refresh into the order that oneDNN multiplies in; otherwise it does so at every product."""
    packs = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if packs and weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return weight


def _linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return F.linear(states, weight, bias)
