"""Linear layers as sampling wants them: adapters merged, in the sampler's precision, side by side in one product."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stages.models.linear import LINEAR

TILE_ROWS = 16  # of AMX's registers
ROWS = 32  # a hint for the order that packed weights are kept in: they serve any number of rows


class Projection:
    """Layers that read the same input. `refresh` takes their weights over; calling gives their outputs, concatenated.

    Weights are used where they are, if they can be. Otherwise, and always with `packs`, they are copied and fused to
    one matrix, with `packs` in the order that the hardware multiplies in.
    Raises TypeError for layers that are not plain linear ones, with LoRA or without.
    """

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype, packs: bool) -> None:
        self.layers, self.dtype = layers, dtype
        self.packs = packs
        self.parts: list[tuple[Tensor, Tensor | None]] = []

    @torch.no_grad()
    def refresh(self) -> None:
        parts = [_effective(layer) for layer in self.layers]
        same = all(isinstance(weight, nn.Parameter) and weight.dtype == self.dtype for weight, _ in parts)
        if same and not self.packs:
            self.parts = parts
            return
        weight = torch.cat([weight.to(self.dtype) for weight, _ in parts])
        biases = [bias.to(self.dtype) for _, bias in parts if bias is not None]
        bias = torch.cat(biases) if biases else None
        if self.packs:
            # once, into the order that oneDNN multiplies in; otherwise that is done at every product
            self.parts = [(torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias)]
        elif self.parts and not isinstance(self.parts[0][0], nn.Parameter):
            # in place: a captured graph knows addresses, not tensors
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
    if type(base) not in LINEAR or any(getattr(layer, "use_dora", {}).values()):
        raise TypeError(f"{type(layer).__name__} is no plain linear layer")
    weight, bias = base.weight, base.bias
    if base is not layer and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter)
    return weight, bias


@cache
def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has an order of its own for weights in `dtype`. In float32 it halves the time of a product of 32
    rows, for which others order the weights anew each time."""
    known = dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()
    if device.type != "cpu" or not known:
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    states, weight = torch.ones(2, 32, dtype=dtype), torch.eye(32, dtype=dtype)
    try:
        found = _linear(states, torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), None)
    except RuntimeError:
        return False
    return torch.equal(found, states)


def _linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return F.linear(states, weight, bias)


def quick_rows(rows: int, device: torch.device, dtype: torch.dtype) -> int:
    """How many rows to multiply, of which the last ones are padding: in bf16, with AMX, oneDNN takes 1.3 times as long
    for two tiles of rows as for three."""
    tiles = device.type == "cpu" and dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return 2 * TILE_ROWS + 1 if tiles and TILE_ROWS < rows <= 2 * TILE_ROWS else rows
