"""How many tokens the model has positions and embeddings for, and whether what the config asks for fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from transformers import AutoConfig, PretrainedConfig

from stages.config.errors import UserError
from stages.data.base_model import check_location

EMBEDDED_POSITIONS = 8192  # reading it from the GGUF file takes seconds


def max_positions(settings: DictConfig) -> int | None:
    """The longest input of the model that the `model` section names, in tokens.

    None where it has no limit, and where the model is not on this machine yet: prepare fetches it.
    """
    if settings.path is None:
        return EMBEDDED_POSITIONS
    config = text_config(settings)
    return _of_config(config) if config else None


def vocabulary_size(settings: DictConfig) -> int | None:
    """How many tokens the model has embeddings for; None where that is not known here, and for the embedded model."""
    config = text_config(settings) if settings.path else None
    return getattr(config, "vocab_size", None)


def text_config(settings: DictConfig) -> PretrainedConfig | None:
    """The config of the language model in what `model.path` names; None where it is not on this machine, or broken."""
    try:
        config = AutoConfig.from_pretrained(
            check_location(settings.path),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
        )
    except UserError:
        raise
    except Exception:  # prepare says what is wrong with it
        return None
    return config.get_text_config()


def check_length(parts: Mapping[str, int], limit: int | None) -> None:
    """Raise UserError where lengths, by their keys in the config, add up to more than `limit` tokens."""
    length = sum(parts.values())
    if limit is not None and length > limit:
        raise UserError(
            f"params.yaml: {' + '.join(parts)} is {length} tokens, and the model has positions for {limit} "
            "(max_position_embeddings, or where dynamic rope begins): lower it, or take another model"
        )


def _of_config(config: PretrainedConfig) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    # ALiBi knows no positions; transformers says -1 where a model has no limit.
    if getattr(config, "alibi", False) or limit is None or limit < 1:
        return None
    scaling = getattr(config, "rope_parameters", None) or {}
    # Gemma 3 has one a kind of layer.
    ropes = [scaling, *(kind for kind in scaling.values() if isinstance(kind, dict))]
    if changes := [length for rope in ropes if (length := _changes_at(rope, config, limit))]:
        return min(changes)
    # Scaled rotary embeddings (YaRN and others) reach further than what the model was first trained on.
    return max([limit, *(_scaled(rope, limit) for rope in ropes)])


def _changes_at(rope: Mapping[str, Any], config: PretrainedConfig, limit: int) -> int | None:
    """The length beyond which rotary positions are turned by other angles, those of the first tokens too: what a model
    gives for a text would depend on what stands beside it in a batch, and on how much of it is there already."""
    if rope.get("rope_type") == "longrope":
        own = getattr(config, "original_max_position_embeddings", None)
        return rope.get("original_max_position_embeddings") or own
    return limit if rope.get("rope_type") == "dynamic" else None


def _scaled(rope: Mapping[str, Any], limit: int) -> int:
    first, factor = rope.get("original_max_position_embeddings") or limit, rope.get("factor") or 1
    known = isinstance(factor, int | float) and isinstance(first, int | float)
    return int(first * factor) if known else limit
