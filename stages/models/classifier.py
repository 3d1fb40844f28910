"""The class that a reward model with a head is made of: a family's sequence classifier."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from stages.config.errors import UserError
from stages.models.hidden import backbone

HEAD = "score"  # transformers' name for the head of a classifier that reads a text's last token


def classifier_class(
    path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """What has the `from_pretrained` for the model in `path`: transformers' own class where that has a HEAD, or one of
    the same weights' names. Reads the configuration alone. Raises UserError where a model's own code has none."""
    config: Any = AutoConfig.from_pretrained(
        path, revision=revision or "main", trust_remote_code=trust_remote_code
    )
    custom = getattr(config, "auto_map", None) if trust_remote_code else None
    if not custom:
        found = _of_family(type(config), config)
    else:
        found = AutoModelForSequenceClassification.__name__ in custom and AutoModelForSequenceClassification
    if not found:
        raise UserError(
            f"reward_model.kind: there is no sequence classifier for {path} to put a head on; set it to likelihood, "
            "which needs none"
        )
    return found


def _of_family(kind: type[PreTrainedConfig], config: PreTrainedConfig) -> Any:
    own: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(kind, None)
    if own and (issubclass(own, GenericForSequenceClassification) or _has_head(own, config)):
        return own
    language_model = MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)
    return language_model and _made_of(language_model, kind)


def _has_head(kind: Any, config: PreTrainedConfig) -> bool:
    """An encoder's classifier reads its first token instead."""
    with torch.device("meta"):
        return isinstance(getattr(kind(config), HEAD, None), nn.Linear)


class _Classifier(GenericForSequenceClassification):
    """As transformers writes it for most families, around the transformer of `made_of`; one more base is the
    family's PreTrainedModel."""

    made_of: Any  # the class of the language model; transformers looks for modules under other names
    post_init: Any

    def __init__(self, config: PreTrainedConfig) -> None:
        super(GenericForSequenceClassification, self).__init__(config)  # type: ignore[call-arg]  # the family's
        whole = self.made_of(config)
        body, size = backbone(whole), whole.get_output_embeddings().in_features
        type(self).base_model_prefix = next(name for name, each in whole.named_children() if each is body)
        self.num_labels: int = config.num_labels  # type: ignore[assignment]
        setattr(self, self.base_model_prefix, body)
        setattr(self, HEAD, nn.Linear(size, self.num_labels, bias=False))
        self.post_init()


@cache
def _made_of(language_model: Any, kind: type[PreTrainedConfig]) -> type:
    name = language_model.__name__.removesuffix("ForCausalLM") + "ForSequenceClassification"
    family = next(each for each in language_model.__mro__ if each.__name__.endswith("PreTrainedModel"))
    # Custom code, which transformers knows by its module, is loaded without buffers that a family computes (Falcon-H1).
    own = {"made_of": language_model, "__module__": language_model.__module__}
    own["config_class"] = (
        kind if isinstance(language_model.config_class, UnionType) else language_model.config_class
    )
    return type(name, (_Classifier, family), own)
