"""How a reward ranks completions that a verifier has judged: over pairs of one prompt, one right and one wrong."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Pairs(NamedTuple):
    """Every pair of a right and a wrong completion of one prompt, in the order of the prompts."""

    prompts: Int[Tensor, " pairs"]  # the row that a pair is of
    margins: Float[Tensor, " pairs"]  # the score of the right one less that of the wrong one


def right_wrong_pairs(
    scores: Float[Tensor, "prompts samples"], right: Bool[Tensor, "prompts samples"]
) -> Pairs:
    """A prompt whose completions are all right, or all wrong, brings no pair."""
    prompts, first, second = (right[:, :, None] & ~right[:, None, :]).nonzero(as_tuple=True)
    return Pairs(prompts, scores[prompts, first] - scores[prompts, second])


def agreement(margins: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
    """1 where the right one scores higher, 0 where it scores lower, 1/2 for a tie.

    Its mean over the pairs of one prompt is the area under the ROC curve there (Mann and Whitney 1947).
    """
    return (margins.sign() + 1) / 2
