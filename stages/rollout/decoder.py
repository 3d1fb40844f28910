"""What sampling runs a model through: our own forward where the model's block is the common one, or transformers'."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.machine import in_any_order
from stages.models.compiled import uncompiled
from stages.models.head import lm_head
from stages.models.hidden import attention_masks, backbone
from stages.models.reference import adapters_off
from stages.models.trial import CANNOT, agree, evaluated, plain_outputs
from stages.models.windows import with_narrow_windows
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


def takes_cache(model: Any) -> bool:
    """Whether `model` reads a text through a cache of ours as its own forward reads it whole, beyond its windows too.
    Tried in its own precision and without adapters, so that no weight is copied for it."""
    try:
        with _alone(model):
            narrow = with_narrow_windows(model)
            if all(_reads_through_cache(each) for each in (model, narrow) if each is not None):
                return True
        reason = "other results"
    except CANNOT as error:
        reason = str(error)
    log.info("sampled by transformers' generate (same result, slower): a cache of ours gives %s", reason)
    return False


def _reads_through_cache(model: Any) -> bool:
    """A prefill of two texts, and two tokens behind each."""
    decoder = TransformersDecoder(model, next(model.parameters()).dtype)
    texts = torch.tensor([[5, 6, 7, 8, 6, 9, 10, 5], [8, 5, 10, 9, 11, 8, 6, 12]], device=decoder.device)
    cache = KeyValueCache(torch.zeros(2, dtype=torch.long, device=decoder.device), texts.shape[1])
    found = []
    for new in texts.split([6, 1, 1], 1):
        found.append(decoder.states(new, cache))
        cache.lengths = cache.lengths + new.shape[1]
    expected = torch.cat([plain_outputs(model, text) for text in texts])
    return agree(decoder.logits(torch.cat(found, 1).flatten(0, 1)), expected)


@contextmanager
def _alone(model: Any) -> Iterator[None]:
    """As it is evaluated and sampled, without adapters and without autocast, under which training asks for a sampler:
    that would round one side of a comparison and not the other."""
    plain = torch.autocast(next(model.parameters()).device.type, enabled=False)
    with torch.no_grad(), evaluated(model), adapters_off(model), plain, uncompiled(), in_any_order():
        yield


def make_decoder(model: Any, dtype: torch.dtype) -> Decoder:
    """The native one where it can be built and, tried on a few tokens, computes what the model computes."""
    with _alone(model):
        differs = _differs(model)
    if differs:
        log.info("sampled by the model's own forward (same result, slower): %s", differs)
    return TransformersDecoder(model, dtype) if differs else NativeDecoder(model, dtype)


def _differs(model: Any) -> str:
    """Why `model` is not of the common block; empty where it is. Tried as in `takes_cache`."""
    dtype = next(model.parameters()).dtype
    try:
        decoders = NativeDecoder(model, dtype, packs=False), TransformersDecoder(model, dtype)
        far = max(getattr(model.config, "max_position_embeddings", 0) - 8, 0)
        pairs = ([_try(decoder, offset) for decoder in decoders] for offset in (0, far))
        alike = all(agree(mine.to(dtype), theirs.to(dtype)) for mine, theirs in pairs)
        return "" if alike else f"{type(model).__name__} computes otherwise"
    except CANNOT as error:
        return f"{type(model).__name__}: {error}"


def _try(decoder: Decoder, offset: int) -> Tensor:
    """Logits [8, vocab] of a prefill and of a token behind it, at positions from `offset` on: some families scale
    attention far into a text."""
    decoder.refresh()
    cache = KeyValueCache(torch.zeros(2, dtype=torch.long, device=decoder.device), 4, offset=offset)
    first = decoder.states(torch.tensor([[5, 6, 7], [8, 9, 10]], device=decoder.device), cache)
    cache.lengths = cache.lengths + 3
    second = decoder.states(torch.tensor([[11], [12]], device=decoder.device), cache)
    return decoder.logits(torch.cat([first, second], 1).flatten(0, 1))
