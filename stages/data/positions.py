"""How many tokens the model has positions for, and whether what the config asks for fits."""

from __future__ import annotations

from collections.abc import Mapping

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
    try:
        config = AutoConfig.from_pretrained(
            check_location(settings.path),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError):
        return None  # prepare says what is wrong with it
    return _of_config(config.get_text_config())


def check_length(parts: Mapping[str, int], limit: int | None) -> None:
    """Raise UserError where lengths, by their keys in the config, add up to more than `limit` tokens."""
    length = sum(parts.values())
    if limit is not None and length > limit:
        raise UserError(
            f"params.yaml: {' + '.join(parts)} is {length} tokens, and the model has positions for {limit} "
            "(max_position_embeddings): lower it, or take another model"
        )


def _of_config(config: PretrainedConfig) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    # ALiBi knows no positions; transformers says -1 where a model has no limit.
    if getattr(config, "alibi", False) or limit is None or limit < 1:
        return None
    # Scaled rotary embeddings (YaRN and others) reach further than what the model was first trained on.
    scaling = getattr(config, "rope_parameters", None) or {}
    first = scaling.get("original_max_position_embeddings") or limit
    return max(limit, int(first * (scaling.get("factor") or 1)))
