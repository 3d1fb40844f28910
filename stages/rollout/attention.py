"""Attention of new tokens to a cache, without copying keys for heads that share them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface

GROUPED = "grouped_queries"
# of queries and keys, in the precision asked for
Products = Callable[[torch.dtype], Float[Tensor, "rows shared queries width"]]
LARGE = 64  # a scaled score: those below are at most 0.125 off in bf16


def grouped_attention(
    _module: nn.Module | None,
    query: Float[Tensor, "rows heads new size"],
    key: Float[Tensor, "rows shared width size"],
    value: Float[Tensor, "rows shared width size"],
    attention_mask: Float[Tensor, "rows 1 new width"],
    scaling: float | None = None,
    **_options: Any,
) -> tuple[Float[Tensor, "rows new heads size"], None]:
    """Heads that share a key (grouped-query attention, Ainslie et al. 2023) become that key's queries, and
    nothing is copied for each of them.

    For the few queries of a decode step on a CPU, products of the whole batch take two thirds of the time of torch's
    fused kernel.
    """
    new, groups = query.shape[2], query.shape[1] // key.shape[1]
    scale: float = scaling or query.shape[-1] ** -0.5
    grouped = as_key_queries(query, key.shape[1])
    if new == 1 and query.device.type == "cpu":
        weights = attention_weights(
            lambda dtype: grouped.to(dtype) @ key.to(dtype).mT, key.dtype, attention_mask, scale
        )
        found = weights @ value
    else:
        mask = attention_mask if new == 1 else attention_mask.repeat(1, 1, groups, 1)
        found = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    return found.unflatten(2, (groups, new)).flatten(1, 2).transpose(1, 2), None


def attention_weights(
    products: Products, dtype: torch.dtype, mask: Float[Tensor, "rows 1 1 width"], scaling: float
) -> Float[Tensor, "rows shared queries width"]:
    """In `dtype`, from scores in float32 or wider."""
    return scaled_scores(products, dtype, scaling).add_(mask).softmax(-1).to(dtype)


def scaled_scores(
    products: Products, dtype: torch.dtype, scaling: float
) -> Float[Tensor, "rows shared queries width"]:
    """In float32 or wider, from products of queries and keys in `dtype`; taken again in float32 where one is so large
    that its rounding could change what is attended to."""
    wide = torch.promote_types(dtype, torch.float32)
    found = products(dtype)
    if dtype != wide and found.abs().max() * scaling > LARGE:
        found = products(wide)
    return found.to(wide).mul_(scaling)


def as_key_queries(
    query: Float[Tensor, "rows heads new size"], shared: int
) -> Float[Tensor, "rows shared queries size"]:
    """Each key head's queries: of all heads that share it, and of all new tokens."""
    return query.unflatten(1, (shared, -1)).flatten(2, 3)


AttentionInterface.register(GROUPED, grouped_attention)


@contextmanager
def grouped_queries(body: Any) -> Iterator[None]:
    """Run `body` with it, where it would run with sdpa: eager attention has reasons (soft-capped scores)."""
    before = body.config._attn_implementation
    if before == "sdpa":
        body.config._attn_implementation = GROUPED
    try:
        yield
    finally:
        body.config._attn_implementation = before
