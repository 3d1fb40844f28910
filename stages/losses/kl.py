"""Estimators of KL(pi || pi_ref) per token, from the log-probabilities of tokens drawn from pi.

Schulman 2020, "Approximating KL divergence". Name the one you use: k1 is unbiased and may be negative, k3 is unbiased,
never negative and of low variance. As a loss the gradients of k1 and k3 are biased; those of k2 and of `corrected_k3`
equal the true KL's on average.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stages.losses.policy_gradient import MAX_LOGRATIO, ratio

Tokens = Float[Tensor, "batch seq"]


def k1(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """log pi - log pi_ref."""
    return logprobs - ref_logprobs


def k2(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """(log pi - log pi_ref)^2 / 2."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3(logprobs: Tokens, ref_logprobs: Tokens) -> Tokens:
    """exp(d) - d - 1 with d = log pi_ref - log pi, clamped so that it cannot overflow."""
    difference = (ref_logprobs - logprobs).clamp(-MAX_LOGRATIO, MAX_LOGRATIO)
    return difference.exp() - difference - 1


def plain_k3(logprobs: Tokens, ref_logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """k3 as a loss. Shao et al. 2024 (GRPO), equation 4; a biased gradient, which knows no `old_logprobs`."""
    return k3(logprobs, ref_logprobs)


def corrected_k3(logprobs: Tokens, ref_logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """k3 times the importance ratio pi / pi_old, whose own gradient counts: unbiased for tokens drawn from pi_old.

    DeepSeek-AI 2025 (DeepSeek-V3.2), equation 7; TRL's `use_bias_correction_kl`.
    """
    return ratio(logprobs, old_logprobs) * k3(logprobs, ref_logprobs)
