"""Log-probability of one token per row, and the entropy, in as few passes over the vocabulary as there can be."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _Selected(torch.autograd.Function):
    """Memory traffic is what it costs: rows times 49,152 numbers in float32. Autograd's own chain over `logsumexp`,
    `gather` and a division reads or writes them some fifteen times; this does six times, and keeps the probabilities
    alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = logits if temperature == 1 else logits / temperature
        probabilities = logits.softmax(-1)
        best, where = logits.max(
            -1, keepdim=True
        )  # its probability is no less than 1 / vocab: its logarithm is sound
        normalizer = best - probabilities.gather(-1, where).log()
        logprobs = logits.gather(-1, ids[:, None]) - normalizer
        with torch.autocast(logits.device.type, enabled=False):  # it would take this product in bf16
            entropy = normalizer.squeeze(-1) - torch.linalg.vecdot(probabilities, logits)
        ctx.save_for_backward(probabilities, ids)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs.squeeze(-1), entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """d logprob / d logits = (one-hot - probabilities) / temperature."""
        probabilities, ids = ctx.saved_tensors
        gradient = gradients[0][:, None] / ctx.temperature
        found = probabilities * -gradient
        return found.scatter_add_(-1, ids[:, None], gradient), None, None


def selected_logprobs(
    logits: Float[Tensor, "rows vocab"], ids: Int[Tensor, " rows"], temperature: float
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Log-probability of each row's id under `logits / temperature`, and the entropy in nats, which has no gradient."""
    return _Selected.apply(logits, ids, temperature)  # type: ignore[return-value]
