"""What sampling runs a model through: our own forward where the model's block is the common one, or transformers'."""

from __future__ import annotations

import copy
import logging
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.models.compiled import uncompiled
from stages.models.head import lm_head
from stages.models.hidden import attention_masks, backbone
from stages.rollout.attention import grouped_queries
from stages.rollout.cache import KeyValueCache
from stages.rollout.native import NativeDecoder

log = logging.getLogger(__name__)


@runtime_checkable
class Decoder(Protocol):
    """Runs tokens behind a cache."""

    device: torch.device
    static: bool  # wants the same shapes and addresses at every step, so that a step can be recorded
    shares: bool  # attends to prompts that their rows share

    def refresh(self) -> None:
        """Take over what training has changed since."""
        ...

    def release(self) -> None:
        """Give back what the next refresh makes anew."""
        ...

    def states(
        self, input_ids: Int[Tensor, "rows new"], cache: KeyValueCache
    ) -> Float[Tensor, "rows new hidden"]:
        """Hidden states of tokens that follow what `cache` holds; it stores them, its lengths stay."""
        ...

    def logits(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]: ...


class TransformersDecoder:
    """Any model with a key/value cache, by its own forward; a copy of it where `dtype` is not the weights'."""

    static = False
    shares = False

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.source = model
        same = dtype == next(model.parameters()).dtype
        self.model = model if same else _narrowed(model, dtype)
        self.device = next(model.parameters()).device

    def refresh(self) -> None:
        if self.model is not self.source:
            for mine, theirs in zip(self.model.parameters(), self.source.parameters(), strict=True):
                mine.copy_(theirs)

    def release(self) -> None:
        """Nothing: its copy stays."""

    def states(
        self, input_ids: Int[Tensor, "rows new"], cache: KeyValueCache
    ) -> Float[Tensor, "rows new hidden"]:
        body: Any = backbone(self.model)
        new = input_ids.shape[1]
        mask = attention_masks(body, lambda window: cache.visible(new, window), self.model.dtype)
        with grouped_queries(body), uncompiled():
            return body(
                input_ids=input_ids, position_ids=cache.positions(new), past_key_values=cache, use_cache=True,
                attention_mask=mask,
            ).last_hidden_state  # fmt: skip

    def logits(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows vocab"]:
        return lm_head(self.model, states).float()


def _narrowed(model: Any, dtype: torch.dtype) -> Any:
    """A frozen copy with its weights in `dtype` and its buffers as they are: the frequencies of rotary positions,
    rounded to bf16, would be a third of a radian off after 200 tokens."""
    found = copy.deepcopy(model).eval().requires_grad_(False)
    for parameter in found.parameters():
        parameter.data = parameter.data.to(dtype)
    return found


def make_decoder(model: Any, dtype: torch.dtype) -> Decoder:
    """The native one where it can be built and, tried on a few tokens, computes what the model computes."""
    training = model.training
    model.eval()
    # Autocast, under which training asks for a sampler, would round one side of the comparison and not the other.
    with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
        differs = _differs(model)
    model.train(training)
    if differs:
        log.info("sampled by the model's own forward (same result, slower): %s", differs)
    return TransformersDecoder(model, dtype) if differs else NativeDecoder(model, dtype)


def _differs(model: Any) -> str:
    """Why `model` is not of the common block; empty where it is. Tried in its own precision and without adapters, so
    that no weight is copied for it."""
    dtype = next(model.parameters()).dtype
    try:
        with model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
            decoders = NativeDecoder(model, dtype, packs=False), TransformersDecoder(model, dtype)
            far = max(getattr(model.config, "max_position_embeddings", 0) - 8, 0)
            close = 1e-3 if dtype.itemsize > 2 else 5e-2
            pairs = ([_try(decoder, offset) for decoder in decoders] for offset in (0, far))
            agree = all(_agree(mine, theirs, close) for mine, theirs in pairs)
            return "" if agree else f"{type(model).__name__} computes otherwise"
    except (AttributeError, TypeError, ValueError, RuntimeError, KeyError) as error:
        return f"{type(model).__name__}: {error}"


def _agree(mine: Tensor, theirs: Tensor, close: float) -> bool:
    return torch.allclose(mine, theirs, rtol=close, atol=close * float(theirs.abs().max()))


def _try(decoder: Decoder, offset: int) -> Tensor:
    """Logits [8, vocab] of a prefill and of a token behind it, at positions from `offset` on: some families scale
    attention far into a text."""
    decoder.refresh()
    cache = KeyValueCache(torch.zeros(2, dtype=torch.long, device=decoder.device), 4, offset=offset)
    first = decoder.states(torch.tensor([[5, 6, 7], [8, 9, 10]], device=decoder.device), cache)
    cache.lengths = cache.lengths + 3
    second = decoder.states(torch.tensor([[11], [12]], device=decoder.device), cache)
    return decoder.logits(torch.cat([first, second], 1).flatten(0, 1))
