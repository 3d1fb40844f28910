"""Language-modelling loss."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def negative_log_likelihood(
    logprobs: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """-log p(token), zero where `mask` is False; in nats per token."""
    return -logprobs * mask
