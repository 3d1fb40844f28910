"""Log-probabilities of completion tokens: packing and the chunked LM head, hidden behind one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.models.head import lm_head
from stages.models.hidden import hidden_states, pack_for
from stages.models.selected import selected_logprobs
from stages.packing import Packed, split_trees
from stages.trees import Tree

HEAD_CHUNK = 1024  # positions whose logits exist at once: 1024 x 49k in bf16 is 100 MB


Microbatches = Sequence[Sequence[int]]  # of each, the indices of its trees


class TokenLogprobs(NamedTuple):
    """One row per completion; index t is completion token t; zero where `mask` is False."""

    logprobs: Float[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]
    entropy: Float[
        Tensor, "batch seq"
    ]  # of the distribution that the token was drawn from, in nats; no gradient


def _chunk_logprobs(
    model: nn.Module, states: Tensor, ids: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return selected_logprobs(lm_head(model, states), ids, temperature)


def head_logprobs(
    model: nn.Module,
    states: Float[Tensor, "targets hidden"],
    ids: Int[Tensor, " targets"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " targets"], Float[Tensor, " targets"]]:
    """Log-probability of each id and entropy in nats, without ever holding [targets, vocab] whole."""
    outputs = []
    for chunk, chunk_ids in zip(states.split(HEAD_CHUNK), ids.split(HEAD_CHUNK), strict=True):
        if len(states) > HEAD_CHUNK and torch.is_grad_enabled():
            outputs.append(
                checkpoint(_chunk_logprobs, model, chunk, chunk_ids, temperature, use_reentrant=False)
            )  # type: ignore[arg-type]
        else:
            outputs.append(_chunk_logprobs(model, chunk, chunk_ids, temperature))
    logprobs, entropy = zip(*outputs, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def target_logprobs(
    model: nn.Module, packed: Packed, states: Float[Tensor, "tokens hidden"], temperature: float = 1.0
) -> TokenLogprobs:
    """From the hidden states of `packed`; for algorithms that need the states for a second head too."""
    predicting = states.index_select(0, packed.predictors)  # its backward is deterministic, unlike indexing's
    logprobs, entropy = head_logprobs(model, predicting, packed.target_ids, temperature)
    return TokenLogprobs(packed.unpack(logprobs), packed.mask(), packed.unpack(entropy))


def completion_logprobs(
    model: nn.Module, trees: Sequence[Tree], *, temperature: float = 1.0, max_tokens: int | None = None,
    microbatches: Microbatches | None = None,
) -> TokenLogprobs:  # fmt: skip
    """Score every completion of every tree, in order: in one pass, in the microbatches that are given, or in some of at
    most `max_tokens` tokens.

    `temperature` divides the logits: score with the temperature that the tokens were sampled at.
    """

    def score(group: list[Tree]) -> TokenLogprobs:
        packed = pack_for(model, group)
        return target_logprobs(model, packed, hidden_states(model, packed), temperature)

    if max_tokens:
        microbatches = split_trees(trees, max_tokens)
    return (
        TokenLogprobs(*map_microbatches(score, trees, microbatches)) if microbatches else score(list(trees))
    )


def sequence_logprobs(
    model: nn.Module, trees: Sequence[Tree], *, max_tokens: int | None = None
) -> Float[Tensor, " batch"]:
    """Log-probability of each whole completion, in nats: the sum over its tokens that are trained on. Microbatches as
    in `completion_logprobs`."""

    def score(group: Sequence[Tree]) -> tuple[Tensor]:
        return (completion_logprobs(model, group).logprobs.sum(1),)

    return (
        map_microbatches(score, trees, split_trees(trees, max_tokens))[0] if max_tokens else score(trees)[0]
    )


def map_microbatches(score, trees: Sequence[Tree], groups: Microbatches) -> list[Tensor]:
    """Apply `score` (trees -> tensors with a row per completion) to each microbatch, and put the rows back in order."""
    first = torch.tensor([0, *(len(tree.completions) for tree in trees)]).cumsum(0).tolist()
    order = [row for group in groups for index in group for row in range(first[index], first[index + 1])]
    parts = zip(*(score([trees[index] for index in group]) for group in groups), strict=True)
    return [torch.cat(_same_width(list(part)))[_inverse(order)] for part in parts]


def _inverse(order: list[int]) -> Tensor:
    return torch.tensor(order).argsort()


def _same_width(parts: list[Tensor]) -> list[Tensor]:
    """Right-pad [batch, seq] parts to the longest; parts [batch] pass."""
    if parts[0].dim() == 1:
        return parts
    width = max(part.shape[1] for part in parts)
    return [nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
