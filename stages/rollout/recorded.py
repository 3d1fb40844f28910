"""A decode step on CUDA as one launch: recorded once for its shapes and buffers, then replayed."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stages.rollout.cache import KeyValueCache
from stages.rollout.decoder import Decoder


class RecordedStep:
    """A CUDA graph of one token for every row. Its buffers are the cache's: it lasts until the rows change.

    Call it with the tokens; lengths are read from the cache, which the caller moves on. Its logits are overwritten by
    the next call.
    """

    def __init__(self, decoder: Decoder, cache: KeyValueCache, input_ids: Int[Tensor, "rows 1"]) -> None:
        self.input_ids = input_ids.clone()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):  # the step before has warmed up what is initialised lazily
            self.logits = decoder.logits(decoder.states(self.input_ids, cache)[:, 0])

    def __call__(self, input_ids: Int[Tensor, "rows 1"]) -> Float[Tensor, "rows vocab"]:
        self.input_ids.copy_(input_ids)
        self.graph.replay()
        return self.logits
