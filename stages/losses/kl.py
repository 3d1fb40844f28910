"""Estimators of KL(pi || pi_ref) per token, from the log-probabilities of tokens drawn from pi.

Schulman 2020, "Approximating KL divergence". Name the one you use: k1 is unbiased and may be negative, k3 is unbiased,
never negative and of low variance; as a loss, only the gradient of k2 equals that of the true KL on average.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stages.losses.policy_gradient import MAX_LOGRATIO

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
