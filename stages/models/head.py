"""A language model's logits from its last hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.utils import ModelOutput

from stages.models.hidden import backbone, without_adapters


def lm_head(model: Any, states: Float[Tensor, "targets hidden"]) -> Float[Tensor, "targets vocab"]:
    """As the head computes them: under autocast in its precision, unless the family scales them."""
    if getattr(backbone(model), "own_head", False):  # set by probe()
        return own_head(model, states)
    return scaled_logits(model.config, model.get_output_embeddings()(states))


def scaled_logits(config: Any, logits: Float[Tensor, "targets vocab"]) -> Float[Tensor, "targets vocab"]:
    """With the scalings that some families apply outside their head, in float32; others' logits as they are."""
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits.float() * config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits.float() / config.logits_scaling
    softcap = getattr(config, "final_logit_softcapping", None)  # Gemma 2
    return torch.tanh(logits.float() / softcap) * softcap if softcap else logits


def own_head(model: Any, states: Float[Tensor, "targets hidden"]) -> Float[Tensor, "targets vocab"]:
    """By the model's own forward, from where its transformer has returned `states`: more layers, a scale or a cap of a
    family's own are applied as it writes them."""
    inner = without_adapters(model)
    ids = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
    with _returning(backbone(model), states[None]):
        return inner(input_ids=ids, use_cache=False).logits[0]


@dataclass
class _Returned(ModelOutput):
    """Of a transformer that gives nothing but states: what else a head asks for is None."""

    last_hidden_state: Tensor | None = None

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _returning(body: nn.Module, states: Tensor) -> Iterator[None]:
    """`body` gives `states`, whatever it is called with."""
    replaced = vars(body).get("forward")
    body.forward = lambda *_args, **_options: _Returned(last_hidden_state=states)
    try:
        yield
    finally:
        if replaced is None:
            del body.forward
        else:
            body.forward = replaced
