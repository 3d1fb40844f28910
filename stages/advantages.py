"""Advantages: what a completion's tokens are credited with. Pure functions, no gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_rewards(
    scores: Float[Tensor, " batch"],
    kl: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    kl_coef: float,
) -> Float[Tensor, "batch seq"]:
    """-kl_coef * KL at every token, and the score on the last. Ziegler et al. 2019, equation 2."""
    rewards = -kl_coef * kl * mask
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return rewards.index_put((torch.arange(len(scores), device=scores.device), last), scores, accumulate=True)


def gae(
    rewards: Float[Tensor, "batch seq"], values: Float[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"],
    *, gamma: float, gae_lambda: float,
) -> Float[Tensor, "batch seq"]:  # fmt: skip
    """Generalised advantage estimation: A_t = d_t + gamma lambda A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t.

    Schulman et al. 2016, equation 16. The value after the last token is 0: the episode has ended. t + 1 is the next
    token that is trained on: what stands between (a tool's answer) is no step of the policy's.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(following)
    for step in reversed(range(rewards.shape[1])):
        trained = mask[:, step]
        delta = rewards[:, step] + gamma * next_value - values[:, step]
        following = torch.where(trained, delta + gamma * gae_lambda * following, following)
        next_value = torch.where(trained, values[:, step], next_value)
        advantages[:, step] = following * trained
    return advantages


def center(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    """Less the mean of the group: what a reward owes to the prompt alone says nothing about its completions.

    A baseline that needs no value model, as in Kool et al. 2019; the mean holds the completion's own reward too, which
    scales all advantages of groups of G by (G - 1) / G. A group of one, or one whose rewards are all equal, gets 0.
    """
    centered = rewards - rewards.mean(1, keepdim=True)
    # The mean of equal numbers is rounded, and a division by a deviation of 0 would make an advantage of that.
    return centered.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)


def group_relative(
    rewards: Float[Tensor, "prompts group"], *, eps: float = 1e-4, scale: bool = True
) -> Float[Tensor, "prompts group"]:
    """(r - mean) / (std + eps) over the completions of one prompt. Shao et al. 2024 (GRPO), section 4.1.2.

    The standard deviation is the unbiased one, as in TRL; a group of one, or one whose rewards are all equal, gets 0.
    `scale=False` leaves out the division: Liu et al. 2025 (Dr. GRPO), equation 3.
    """
    centered = center(rewards)
    if not scale or rewards.shape[1] == 1:
        return centered
    return centered / (rewards.std(1, keepdim=True) + eps)


def leave_one_out(rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
    """r_i less the mean of the others in its group, of two or more. Ahmadian et al. 2024 (RLOO), section 2.4."""
    group = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * group / (group - 1)


def whiten(
    values: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    total: Callable[[Tensor], Tensor],
    eps: float = 1e-8,
) -> Float[Tensor, "batch seq"]:
    """Shift and scale the masked values to mean 0 and variance 1, over the batch of every rank.

    `total` sums a tensor over ranks (the identity on one).
    """
    mean, variance = _moments(values, mask, total)
    return ((values - mean) / (variance + eps).sqrt() * mask).to(values.dtype)


def whiten_about_mean(
    values: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    total: Callable[[Tensor], Tensor],
    eps: float = 1e-8,
) -> Float[Tensor, "batch seq"]:
    """As `whiten`, but the mean stays: a reward's sign says good or bad, and shifting it would pay for length."""
    mean, variance = _moments(values, mask, total)
    return (((values - mean) / (variance + eps).sqrt() + mean) * mask).to(values.dtype)


def _moments(values: Tensor, mask: Tensor, total: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    kept = values[mask].double()
    count, first, second = total(torch.stack([kept.new_tensor(len(kept)), kept.sum(), (kept**2).sum()]))
    mean = first / count
    return mean, (second / count - mean**2).clamp(min=0)
