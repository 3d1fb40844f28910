"""Drawing one token per row from logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 256  # vocabulary entries whose probabilities are first summed, then searched
BELOW_ONE = 1 - 2.0**-22  # a fraction whose product with a float32 stays below it


def draw(
    logits: Float[Tensor, "rows vocab"], temperature: float
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Draw a token and its log-probability under the tempered distribution; temperature 0 takes the best one.

    Greedy log-probabilities are those at temperature 1.
    """
    if temperature == 0:
        best, tokens = logits.max(-1)
        return tokens, best - logits.logsumexp(-1)
    probabilities = (logits if temperature == 1 else logits / temperature).softmax(-1)
    tokens = inverse_cdf(probabilities, torch.rand(len(logits), 1, device=logits.device))
    return tokens, probabilities.gather(-1, tokens[:, None]).squeeze(-1).log()


def inverse_cdf(
    probabilities: Float[Tensor, "rows vocab"], uniform: Float[Tensor, "rows 1"]
) -> Int[Tensor, " rows"]:
    """The token at which the cumulative probability passes `uniform`, in [0, 1): first its block, then the token in it.

    Two passes over the vocabulary, where torch.multinomial draws a random number for every entry of it.
    """
    rest = -probabilities.shape[1] % BLOCK
    blocks = (F.pad(probabilities, (0, rest)) if rest else probabilities).unflatten(-1, (-1, BLOCK))
    block, inside = _search(blocks.sum(-1), uniform)
    token, _ = _search(blocks[torch.arange(len(blocks), device=blocks.device), block], inside)
    return block * BLOCK + token


def _search(
    weights: Float[Tensor, "rows entries"], uniform: Float[Tensor, "rows 1"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "rows 1"]]:
    """The entry into which `uniform` times the row's sum falls, and how far into it, in [0, 1].

    The sum is taken as it was rounded, so an entry of weight 0 is never found.
    """
    cumulative = weights.cumsum(-1)
    target = uniform.clamp(max=BELOW_ONE) * cumulative[:, -1:]
    found = torch.searchsorted(cumulative, target, right=True)
    end, weight = cumulative.gather(-1, found), weights.gather(-1, found)
    return found.squeeze(-1), (1 - (end - target) / weight).clamp(0, 1)  # sums were rounded
