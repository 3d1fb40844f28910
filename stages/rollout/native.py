"""A decoder's forward for sampling, of the block that most families share (Llama, Mistral, Qwen 2 and 3, SmolLM):
products fused and weights in the order that the hardware wants, a third of transformers' operations per layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from stages.models.head import scaled_logits
from stages.models.hidden import attention_masks, backbone
from stages.rollout.cache import KeyValueCache
from stages.rollout.projection import Projection, can_pack, quick_rows
from stages.rollout.shared_prompts import SharedPromptCache

Cache = KeyValueCache | SharedPromptCache
States = Float[Tensor, "cells hidden"]  # the rows' new tokens, then padding
Positions = tuple[
    Float[Tensor, "rows new 1 head_dim"], Float[Tensor, "rows new 1 head_dim"]
]  # cosine, signed sine


class NativeDecoder:
    """The residual stream keeps the precision of the model's weights and products are in `dtype`, as under autocast.
    Without `packs`, weights in `dtype` are used where they are: slower, and no memory is taken for a copy.

    Raises AttributeError or TypeError for a model that is built otherwise.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, packs: bool = True) -> None:
        self.model = model
        self.body: Any = backbone(model)
        self.device = self.body.embed_tokens.weight.device
        packs = packs and can_pack(self.device, dtype)
        self.blocks = [_Block(layer, dtype, packs) for layer in self.body.layers]
        self.head = Projection([model.get_output_embeddings()], dtype, packs)
        self.shares = self.device.type == "cpu"  # on CUDA a step's shapes are to stay
        rope = getattr(self.body.rotary_emb, "rope_type", "default")
        # these two look at the longest position, on the host: no graph can hold that
        self.static = self.device.type == "cuda" and rope not in ("dynamic", "longrope")

    def refresh(self) -> None:
        """Take over what training has changed."""
        for projection in self._projections():
            projection.refresh()

    def release(self) -> None:
        """Until the next refresh."""
        for projection in self._projections():
            projection.release()

    def states(self, input_ids: Int[Tensor, "rows new"], cache: Cache) -> Float[Tensor, "rows new hidden"]:
        """Hidden states of tokens that follow what `cache` holds; it stores them."""
        rows, new = input_ids.shape
        cells = rows * new
        states = F.embedding(input_ids.flatten(), self.body.embed_tokens.weight)
        states = _pad_rows(states, self._quick(cells))
        cos, sin = self.body.rotary_emb(states, cache.positions(new))
        half = sin.shape[-1] // 2
        positions = cos[:, :, None], torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, :, None]
        masks: Any = attention_masks(self.body, partial(cache.visible, new), self.head.dtype)
        for index, block in enumerate(self.blocks):
            mask = masks[self._kind(index)] if isinstance(masks, dict) else masks
            states = block(states, positions, mask, cache, index)
        return _norm(states[:cells], self.body.norm).view(rows, new, -1)

    def logits(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        rows = len(states)
        found = self.head(_pad_rows(states, self._quick(rows)))[:rows]
        return scaled_logits(self.model.config, found).float()

    def _quick(self, rows: int) -> int:
        return quick_rows(rows, self.device, self.head.dtype)

    def _kind(self, layer: int) -> str:
        return self.body.config.layer_types[layer]

    def _projections(self) -> Iterator[Projection]:
        for block in self.blocks:
            yield from (block.heads, block.output, block.gate_up, block.down)
        yield self.head


class _Block:
    def __init__(self, layer: Any, dtype: torch.dtype, packs: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer, self.attention, self.activation = layer, attention, mlp.act_fn
        self.heads = Projection([attention.q_proj, attention.k_proj, attention.v_proj], dtype, packs)
        self.output = Projection([attention.o_proj], dtype, packs)
        self.gate_up = Projection([mlp.gate_proj, mlp.up_proj], dtype, packs)
        self.down = Projection([mlp.down_proj], dtype, packs)
        self.groups = attention.num_key_value_groups  # query heads per key head

    def __call__(
        self, states: States, positions: Positions, mask: Tensor, cache: Cache, index: int
    ) -> States:
        states = states + self._attend(
            _norm(states, self.layer.input_layernorm), positions, mask, cache, index
        )
        gate, up = self.gate_up(_norm(states, self.layer.post_attention_layernorm)).chunk(2, -1)
        return states + self.down(self.activation(gate).mul_(up))

    def _attend(self, states: States, positions: Positions, mask: Tensor, cache: Cache, index: int) -> States:
        rows, new = positions[0].shape[:2]
        heads = self.heads(states)[: rows * new].view(rows, new, -1, self.attention.head_dim)
        kv_heads = heads.shape[2] // (self.groups + 2)
        queries, keys, values = heads.split([kv_heads * self.groups, kv_heads, kv_heads], 2)
        if hasattr(self.attention, "q_norm"):
            queries, keys = _norm(queries, self.attention.q_norm), _norm(keys, self.attention.k_norm)
            turned = _rotate(torch.cat([queries, keys], 2), *positions).to(values.dtype)
        else:
            turned = _rotate(heads[:, :, :-kv_heads], *positions).to(values.dtype)
        queries, keys = turned.split([kv_heads * self.groups, kv_heads], 2)
        queries, keys, values = (each.transpose(1, 2) for each in (queries, keys, values))
        mixed = cache.attend(queries, keys, values, mask, index, self.attention.scaling)
        return self.output(_pad_rows(mixed.flatten(2).flatten(0, 1), len(states)))


def _pad_rows(states: States, count: int) -> Float[Tensor, "{count} hidden"]:
    """So many rows, the last ones padding."""
    return states if len(states) == count else F.pad(states, (0, 0, 0, count - len(states)))


def _norm(states: Tensor, norm: Any) -> Tensor:
    """Root mean square normalisation (Zhang and Sennrich 2019), in the weights' precision."""
    return F.rms_norm(states.to(norm.weight.dtype), norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotate(heads: Float[Tensor, "rows new heads head_dim"], cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021); the first half of `sin` carries the minus of rotate-half."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
