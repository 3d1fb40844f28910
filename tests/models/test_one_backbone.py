"""A reward model on the policy's own base, against the same one loaded as a model of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.models.load import add_adapter, load_model, save_model
from stages.models.logprobs import completion_logprobs
from stages.models.one_backbone import REWARD_ADAPTER, attach_reward_model, shares_base, switched
from stages.models.reference import Reference
from stages.models.reward_kinds import REWARD_MODELS, load_reward_model
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import lora, shake, tiny_llama, tree

TREES = [tree([1, 9, 8], [7, 6, 5], [11, 2]), tree([1, 20], [30, 31, 32, 2])]


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return completion_logprobs(model, TREES).logprobs


@pytest.fixture(params=[True, False], ids=["sft merged", "sft adapter"])
def sft(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    tiny_llama().save_pretrained(tmp_path / "prepare")
    model = add_adapter(load_model(tmp_path / "prepare"), lora())
    shake(model, seed=1)
    folder = tmp_path / "sft" / "model"
    save_model(model, tiny_tokenizer(), folder, merge_adapter=request.param, base=tmp_path / "prepare")
    return folder


def trained_reward(sft: Path, kind: str, *, merge: bool = False) -> Path:
    reward_model = REWARD_MODELS[kind].from_policy(sft, lora(lora_r=2, lora_alpha=16))
    shake(reward_model, seed=4)
    reward_model.config.reward_mean, reward_model.config.reward_std = 0.25, 2.0
    folder = sft.parent.parent / "reward_model" / "model"
    save_model(reward_model.model, tiny_tokenizer(), folder, merge_adapter=merge, base=sft)
    return folder


@pytest.mark.parametrize("kind", REWARD_MODELS)
def test_its_rewards_are_those_of_a_separate_model_and_the_policy_stays_itself(sft: Path, kind: str):
    folder = trained_reward(sft, kind)
    policy = add_adapter(load_model(sft), lora())
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    reference = Reference(policy)
    before = logprobs(policy)
    shake(policy, seed=7)
    moved = logprobs(policy)

    reward_model = attach_reward_model(policy, folder)
    expected = load_reward_model(folder).score(TREES, 4096)
    assert expected.std() > 0.01
    torch.testing.assert_close(reward_model.score(TREES, 4096), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logprobs(policy), moved)
    assert torch.equal(
        reference.logprobs(TREES, temperature=1.0, microbatches=[[*range(len(TREES))]]).logprobs, before
    )
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trained


@pytest.mark.parametrize("merge", [True, False])
def test_the_policy_is_saved_without_it(sft: Path, tmp_path: Path, merge: bool):
    policy = add_adapter(load_model(sft), lora())
    shake(policy, seed=7)
    expected = logprobs(policy)
    attach_reward_model(policy, trained_reward(sft, "head"))
    save_model(policy, tiny_tokenizer(), tmp_path / "rl" / "model", merge_adapter=merge, base=sft)
    torch.testing.assert_close(
        logprobs(load_model(tmp_path / "rl" / "model")), expected, rtol=1e-5, atol=1e-5
    )
    written = list((tmp_path / "rl" / "model").rglob("*.safetensors"))
    assert [path.parent.name for path in written] == ["model"]


def test_it_costs_an_adapter_and_a_head_and_no_backbone(sft: Path):
    folder = trained_reward(sft, "head")
    policy = add_adapter(load_model(sft), lora())
    before = sum(parameter.numel() for parameter in policy.parameters())
    reward_model = attach_reward_model(policy, folder)
    after = sum(parameter.numel() for parameter in reward_model.parameters())
    # rank 2 on q and o (32 x 32), k and v (32 x 16), gate, up and down (32 x 48), in two layers; a head of 32
    assert after - before == 2 * 2 * (2 * 64 + 2 * 48 + 3 * 80) + 32


def test_which_folders_share_a_base(sft: Path, tmp_path: Path):
    assert shares_base(trained_reward(sft, "head"), sft)
    assert not shares_base(trained_reward(sft, "head"), tmp_path / "prepare")
    assert not shares_base(sft, sft)
    merged = sft.parent.parent / "merged"
    save_model(load_model(sft), tiny_tokenizer(), merged, merge_adapter=True, base=sft)
    assert not shares_base(merged, sft)


def test_an_error_while_scoring_leaves_the_policy_active(sft: Path):
    policy = add_adapter(load_model(sft), lora())
    attach_reward_model(policy, trained_reward(sft, "head"))
    with pytest.raises(KeyError), switched(policy, REWARD_ADAPTER):
        assert policy.active_adapter == REWARD_ADAPTER
        raise KeyError
    assert policy.active_adapter == "default"
    assert any(parameter.requires_grad for parameter in policy.parameters())
