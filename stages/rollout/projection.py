"""Linear layers as sampling wants them: adapters merged, in the sampler's precision, side by side in one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 32  # a hint for the order that packed weights are kept in: they serve any number of rows


class Projection:
    """Layers that read the same input. `refresh` takes their weights over; calling gives their outputs, concatenated.

    Weights that are in `dtype` already are used where they are. Others are copied, and then fused to one matrix.
    Raises TypeError for layers that are not plain linear ones, with LoRA or without.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.parts: list[tuple[Tensor, Tensor | None]] = []
        self.refresh()

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
            if bias is not None and self.parts[0][1] is not None:
                self.parts[0][1].copy_(bias)
        else:
            self.parts = [(weight, bias)]

    def __call__(self, states: Tensor) -> Tensor:
        states = states.to(self.dtype)
        outputs = [_linear(states, weight, bias) for weight, bias in self.parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)


def _effective(layer: Any) -> tuple[Tensor, Tensor | None]:
    """The weight that a linear layer stands for, with its active LoRA adapters added, whole where it is sharded."""
    base = getattr(layer, "base_layer", layer)
    if type(base) is not nn.Linear or any(getattr(layer, "use_dora", {}).values()):
        raise TypeError(f"{type(layer).__name__} is no plain linear layer")
    weight, bias = _whole(base.weight), base.bias if base.bias is None else _whole(base.bias)
    if base is not layer and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter)
    return weight, bias


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def _reordered(weight: Tensor) -> Tensor:
    """Once per refresh into the order that oneDNN multiplies in; otherwise it does so at every product."""
    if weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return weight


def _linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return F.linear(states, weight, bias)
