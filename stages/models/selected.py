"""Log-probability of one token per row, and the entropy, in as few passes over the vocabulary as there can be."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows that are in float32 at once: 64 x 49k are 13 MB, and a CPU takes no longer for it; a GPU would wait for Python.
ROWS_ON_CPU = 64
ROWS_ON_GPU = 1024


class _Selected(torch.autograd.Function):
    """Memory is what it costs: rows times 49,152 numbers. Kept for the backward are the logits as the head wrote them
    (bf16 under autocast) and one number per row; what is made of them in float32 exists for some rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        rows = ROWS_ON_CPU if logits.device.type == "cpu" else ROWS_ON_GPU
        pieces = zip(logits.split(rows), ids.split(rows), strict=True)
        parts = [_select(_widened(piece, temperature), chosen) for piece, chosen in pieces]
        logprobs, normalizer, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(logits, ids, normalizer)
        ctx.rows, ctx.temperature = rows, temperature
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """d logprob / d logits = (one-hot - probabilities) / temperature, in the place of the logits: all activations
        live when this runs. Passed a second time, autograd says that they were modified."""
        logits, ids, normalizer = ctx.saved_tensors
        found = logits.detach()
        saved = (found, ids, normalizer, gradients[0] / ctx.temperature)
        for piece, chosen, norm, gradient in zip(*(each.split(ctx.rows) for each in saved), strict=True):
            probabilities = (_widened(piece, ctx.temperature) - norm[:, None]).exp_()
            whole = probabilities.mul_(-gradient[:, None])
            piece.copy_(whole.scatter_add_(-1, chosen[:, None], gradient[:, None]))
        return found, None, None


def _widened(logits: Tensor, temperature: float) -> Tensor:
    """In float32 at least, divided by `temperature`."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1 else wide / temperature


def _select(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of `ids`, the logarithm of each row's sum of exponentials, and the entropy."""
    probabilities = logits.softmax(-1)
    best, where = logits.max(
        -1, keepdim=True
    )  # its probability is no less than 1 / vocab: its logarithm is sound
    normalizer = best - probabilities.gather(-1, where).log()
    logprobs = logits.gather(-1, ids[:, None]) - normalizer
    with torch.autocast(logits.device.type, enabled=False):  # it would take this product in bf16
        entropy = normalizer.squeeze(-1) - torch.linalg.vecdot(probabilities, logits)
    return logprobs.squeeze(-1), normalizer.squeeze(-1), entropy


def selected_logprobs(
    logits: Float[Tensor, "rows vocab"], ids: Int[Tensor, " rows"], temperature: float
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Log-probability of each row's id under `logits / temperature`, and the entropy in nats, which has no gradient;
    both in float32 at least. The backward overwrites `logits`: nothing else may need them."""
    return _Selected.apply(logits, ids, temperature)  # type: ignore[return-value]
