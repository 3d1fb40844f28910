"""Policy-gradient losses: one value per token, zero where `mask` is False."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "batch seq"]
Mask = Bool[Tensor, "batch seq"]

MAX_LOGRATIO = (
    20.0  # exp(20) = 5e8: large enough never to bind in healthy training, small enough never to overflow
)


def ratio(logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """Importance ratio pi / pi_old, its exponent clamped so that it cannot overflow."""
    return (logprobs - old_logprobs).clamp(-MAX_LOGRATIO, MAX_LOGRATIO).exp()


def clipped(
    logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, mask: Mask, *, low: float, high: float
) -> Tokens:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A). Schulman et al. 2017 (PPO), equation 7; `low` = `high` there."""
    ratios = ratio(logprobs, old_logprobs)
    unclipped_loss = -ratios * advantages
    clipped_loss = -ratios.clamp(1 - low, 1 + high) * advantages
    return torch.maximum(unclipped_loss, clipped_loss) * mask


def clip_fraction(logprobs: Tokens, old_logprobs: Tokens, mask: Mask, *, low: float, high: float) -> Mask:
    """True where the ratio lies outside [1 - low, 1 + high]."""
    ratios = ratio(logprobs, old_logprobs)
    return ((ratios < 1 - low) | (ratios > 1 + high)) & mask


def clipped_value(
    values: Tokens, old_values: Tokens, returns: Tokens, mask: Mask, *, clip_range: float
) -> Tokens:
    """1/2 max((V - R)^2, (clip(V, V_old +- clip_range) - R)^2). PPO's value loss as in OpenAI's baselines (ppo2)."""
    moved = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (moved - returns) ** 2) * mask
