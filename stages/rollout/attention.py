"""Attention of one new token per row, without copying keys for heads that share them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

GROUPED = "grouped_queries"


def grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads new size"],
    key: Float[Tensor, "rows shared width size"],
    value: Float[Tensor, "rows shared width size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Heads that share a key (grouped-query attention, Ainslie et al. 2023) become that key's queries.

    transformers copies keys and values once per head instead, which is most of a decode step's memory traffic.
    """
    rows, heads, new, size = query.shape
    if new > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    found = F.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, -1), None


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
