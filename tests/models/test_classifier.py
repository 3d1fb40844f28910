"""A reward model's head on families that transformers has no sequence classifier for, and on those that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CohereConfig,
    FalconH1Config,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    RemBertConfig,
)

from stages.config.errors import UserError
from stages.models.classifier import classifier_class
from stages.models.hidden import backbone
from stages.models.load import save_model
from stages.models.reward import RewardModel
from stages.models.reward_kinds import check_kind
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import SHAPE, lora, shake, tree

TREES = [tree([1, 9, 8], [7, 6, 5], [11, 3]), tree([1, 20], [30, 31, 32, 3])]
WITHOUT = {
    "granite": GraniteConfig(**SHAPE, logits_scaling=8.0),
    "cohere": CohereConfig(**SHAPE),
    "llama4": Llama4TextConfig(**SHAPE, head_dim=8, intermediate_size_mlp=48, num_local_experts=2),
    "mamba": MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8),
    # computes a buffer that is in no file
    "falcon_h1": FalconH1Config(**SHAPE, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8),
}  # fmt: skip
WITH = {
    "llama": LlamaConfig(**SHAPE),
    "opt": OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                     max_position_embeddings=128, word_embed_proj_dim=16),
}  # fmt: skip


def saved(config: Any, folder: Path) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", WITHOUT | WITH)
def test_rewards_are_the_head_of_the_last_state_and_survive_saving(name: str, tmp_path: Path):
    model = saved((WITHOUT | WITH)[name], tmp_path / "sft")
    reward_model = RewardModel.from_policy(tmp_path / "sft", lora(on=False)).eval()
    assert type(reward_model.model).__name__ == type(model).__name__.replace(
        "CausalLM", "SequenceClassification"
    )
    found = reward_model(TREES)

    expected = []
    for each in TREES:
        for completion in each.completions:
            ids = torch.tensor([each.prompt.input_ids + completion.input_ids])
            state = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
            expected.append((state @ reward_model.head.weight[0]).detach())  # type: ignore[operator]
    torch.testing.assert_close(found.detach(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert found.std() > 1e-3

    shake(reward_model)
    trained = reward_model(TREES)
    save_model(
        reward_model.model, tiny_tokenizer(), tmp_path / "reward", merge_adapter=False, base=tmp_path / "sft"
    )
    again = RewardModel.from_pretrained(tmp_path / "reward")
    torch.testing.assert_close(again(TREES), trained.detach(), rtol=1e-4, atol=1e-5)


def test_adapters_and_their_head_survive_saving_where_the_class_is_ours(tmp_path: Path):
    saved(WITHOUT["granite"], tmp_path / "sft")
    reward_model = RewardModel.from_policy(tmp_path / "sft", lora())
    shake(reward_model)
    trained = reward_model(TREES)
    save_model(
        reward_model.model, tiny_tokenizer(), tmp_path / "reward", merge_adapter=False, base=tmp_path / "sft"
    )
    again = RewardModel.from_pretrained(tmp_path / "reward")
    torch.testing.assert_close(again(TREES), trained.detach(), rtol=1e-4, atol=1e-5)


def test_transformers_own_class_is_taken_where_there_is_one(tmp_path: Path):
    saved(WITH["llama"], tmp_path)
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    assert classifier_class(tmp_path) is type(own)


def test_a_head_on_other_states_than_the_last_is_refused(tmp_path: Path):
    """RemBERT's language model projects its states once more before the vocabulary."""
    config = RemBertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, is_decoder=True,
                           intermediate_size=48, input_embedding_size=32, output_embedding_size=24)  # fmt: skip
    saved(config, tmp_path)
    with pytest.raises(
        UserError, match=r"reward_model\.kind: RemBertForSequenceClassification has no head on"
    ):
        RewardModel.from_policy(tmp_path, lora(on=False))


def test_code_of_its_own_without_a_classifier_is_refused_by_its_configuration(tmp_path: Path):
    config = LlamaConfig(**SHAPE)
    config.auto_map = {"AutoModelForCausalLM": "modeling.Own"}
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"reward_model\.kind: there is no sequence classifier for"):
        check_kind("head", tmp_path, trust_remote_code=True)
    check_kind("likelihood", tmp_path, trust_remote_code=True)
