"""How long an input of a model may be, by its config."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from transformers import (
    AutoConfig,
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    Phi3Config,
    PretrainedConfig,
)

from stages.config.errors import UserError
from stages.data.embedded import embedded_weights
from stages.data.positions import check_length, max_positions

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 10000.0}
# beyond these lengths all angles change, those of the first tokens too
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 10000.0}


def settings(path: str | None) -> DictConfig:
    return OmegaConf.create({"path": path, "revision": None, "trust_remote_code": False})


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=600), 600),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters=YARN), 8192),
        (GPT2Config(), 1024),  # n_positions
        (Gemma3Config(text_config={"max_position_embeddings": 777}), 777),
        (LlamaConfig(max_position_embeddings=600, rope_parameters=YARN | {"factor": "x"}), 600),
        (LlamaConfig(max_position_embeddings=600, rope_parameters=DYNAMIC), 600),
        (
            Phi3Config(
                max_position_embeddings=5000, original_max_position_embeddings=700, rope_parameters=LONG
            ),
            700,
        ),
        (FalconConfig(alibi=True), None),
        (BloomConfig(), None),  # ALiBi
        (MambaConfig(), None),  # no positions at all
    ],
    ids=lambda part: getattr(part, "model_type", str(part)),
)
def test_a_config_s_limit(tmp_path: Path, config: PretrainedConfig, limit: int | None) -> None:
    config.save_pretrained(tmp_path)
    assert max_positions(settings(str(tmp_path))) == limit


def test_the_embedded_model_s_limit() -> None:
    weights = embedded_weights()
    config = AutoConfig.from_pretrained(weights.parent, gguf_file=weights.name)
    assert max_positions(settings(None)) == config.max_position_embeddings


def test_a_model_that_is_not_here_yet_has_no_known_limit() -> None:
    assert max_positions(settings("nobody/nothing")) is None


def test_lengths_up_to_the_limit_pass() -> None:
    check_length({"a": 3, "b": 4}, 7)
    check_length({"a": 300}, None)
    with pytest.raises(UserError, match=r"params\.yaml: a \+ b is 8 tokens"):
        check_length({"a": 4, "b": 4}, 7)
