"""Adapters and reward heads through save and reload; the reference; what dropout is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PhiConfig,
)

from stages.models import load
from stages.models.hidden import backbone
from stages.models.load import add_adapter, disable_dropout, load_model, save_model
from stages.models.logprobs import completion_logprobs
from stages.models.reference import Reference
from stages.models.reward import RewardModel
from stages.models.reward_kinds import REWARD_MODELS, load_reward_model
from stages.trees import Tree
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import lora, shake, tiny_llama, tree

TREES = [tree([1, 9, 8], [7, 6, 5], [11, 2]), tree([1, 20], [30, 31, 32, 2])]


def logprobs(model, trees: list[Tree] = TREES) -> torch.Tensor:
    with torch.no_grad():
        return completion_logprobs(model, trees).logprobs


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "prepare" / "model")
    return tmp_path / "prepare" / "model"


def write(model, folder: Path, base: Path, *, merge: bool) -> Path:
    save_model(model, tiny_tokenizer(), folder, merge_adapter=merge, base=base)
    return folder


def trained(folder: Path, seed: int, *, on: bool = True):
    torch.manual_seed(seed)
    model = add_adapter(load_model(folder), lora(on=on))
    shake(model, seed=seed)
    return model


@pytest.mark.parametrize("merge", [True, False])
def test_sft_then_rl_chain_of_adapters(base: Path, tmp_path: Path, merge: bool):
    """Each stage's adapter sits on the model that the stage before it wrote, itself an adapter where they are kept."""
    sft = trained(base, 1)
    sft_logprobs = logprobs(sft)
    folder = write(sft, tmp_path / "sft" / "model", base, merge=merge)
    assert (folder / "adapter_config.json").exists() == (not merge)
    torch.testing.assert_close(logprobs(load_model(folder)), sft_logprobs, rtol=1e-5, atol=1e-5)

    policy = add_adapter(load_model(folder), lora())
    torch.testing.assert_close(logprobs(policy), sft_logprobs, rtol=1e-5, atol=1e-5)
    rl = trained(folder, 2)
    rl_logprobs = logprobs(rl)
    assert (rl_logprobs - sft_logprobs).abs().max() > 0.01
    rl_folder = write(rl, tmp_path / "rl" / "model", folder, merge=merge)
    torch.testing.assert_close(logprobs(load_model(rl_folder)), rl_logprobs, rtol=1e-5, atol=1e-5)


def test_a_kept_adapter_survives_a_move_of_the_project(base: Path, tmp_path: Path):
    sft = trained(base, 1)
    expected = logprobs(sft)
    write(sft, tmp_path / "sft" / "model", base, merge=False)
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    torch.testing.assert_close(logprobs(load_model(moved / "sft" / "model")), expected, rtol=1e-5, atol=1e-5)


def test_a_merged_folder_is_a_plain_model(base: Path, tmp_path: Path):
    sft = trained(base, 1)
    expected = logprobs(sft)
    folder = write(sft, tmp_path / "sft", base, merge=True)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(logprobs(plain), expected, rtol=1e-5, atol=1e-5)
    assert [path.name for path in folder.glob("*.bin")] == []


def test_a_base_outside_the_project_is_named_as_it_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`dvc exp run` works in a copy of the project elsewhere: seen from there, a relative path would be another."""
    monkeypatch.setattr(load, "ROOT", tmp_path / "project")
    folder = write(trained(base, 1), tmp_path / "project" / "data" / "sft" / "model", base, merge=False)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    load_model(folder)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("sft_merge", [True, False])
@pytest.mark.parametrize("kind", REWARD_MODELS)
def test_reward_is_the_same_after_save_and_reload(
    base: Path, tmp_path: Path, kind: str, on: bool, merge: bool, sft_merge: bool
):
    """With full weights and with adapters: the head is trained, saved, and found again, its normalisation too."""
    sft = write(trained(base, 1), tmp_path / "sft" / "model", base, merge=sft_merge)
    torch.manual_seed(3)
    reward_model = REWARD_MODELS[kind].from_policy(sft, lora(on=on))
    untrained = reward_model.state_dict()
    before = {name: value.clone() for name, value in untrained.items() if "score" in name}
    shake(reward_model, seed=4)
    trained_part = [name for name in before if "original" not in name]
    assert not any(torch.equal(reward_model.state_dict()[name], before[name]) for name in trained_part)
    reward_model.model.config.reward_mean, reward_model.model.config.reward_std = 0.25, 2.0
    raw, scores = reward_model(TREES).detach(), reward_model.score(TREES, 4096)
    torch.testing.assert_close(scores, (raw - 0.25) / 2)

    folder = write(reward_model.model, tmp_path / "reward_model" / "model", sft, merge=merge)
    loaded = load_reward_model(folder)
    assert loaded.kind == kind
    torch.testing.assert_close(loaded.score(TREES, 4096), scores, rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_reward_heads_start_small_and_only_they_and_adapters_are_trained(base: Path):
    torch.manual_seed(0)
    model = RewardModel.from_policy(base, lora())
    # 1 / sqrt(32 + 1) = 0.174; 32 numbers estimate it to about 12 %
    assert float(model.head.weight.detach().std()) == pytest.approx(0.174, rel=0.4)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("score" in name for name in names)
    assert all("lora_" in name or "score" in name for name in names)


@pytest.mark.parametrize("on", [True, False])
def test_reference_is_the_policy_exactly_until_it_moves(base: Path, on: bool):
    policy = add_adapter(load_model(base), lora(on=on))
    reference = Reference(policy)
    before = logprobs(policy)

    def under_reference() -> torch.Tensor:
        return reference.logprobs(TREES, temperature=1.0, microbatches=[[*range(len(TREES))]]).logprobs

    assert torch.equal(under_reference(), before)  # KL at step 0 is 0 to the last bit
    trainable = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    shake(policy)
    assert torch.equal(under_reference(), before)
    assert not torch.equal(logprobs(policy), before)
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trainable
    assert isinstance(reference.model, PeftModel) == on


SMALL = dict(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)  # noqa: C408
DROPOUTS = {
    "llama": LlamaConfig(**SMALL, intermediate_size=48, attention_dropout=0.3),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4),
    "neox": GPTNeoXConfig(**SMALL, intermediate_size=48, hidden_dropout=0.3, attention_dropout=0.3),
    "phi": PhiConfig(**SMALL, intermediate_size=48, resid_pdrop=0.3, embd_pdrop=0.3, attention_dropout=0.3),
    "opt": OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, dropout=0.3, attention_dropout=0.3),
    "bloom": BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.3),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_no_dropout_is_left_in_training_mode(name: str):
    model = AutoModelForCausalLM.from_config(DROPOUTS[name]).train()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    assert not torch.equal(model(ids).logits, model(ids).logits)
    disable_dropout(model)
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_no_dropout_is_left_in_adapters():
    model = add_adapter(tiny_llama(), lora(lora_dropout=0.5)).train()
    shake(model)
    assert not torch.equal(logprobs(model), logprobs(model))
    disable_dropout(model)
    assert torch.equal(logprobs(model), logprobs(model))


def test_a_kept_adapter_of_a_hub_model_names_its_revision(base: Path, tmp_path: Path):
    folder = tmp_path / "sft"
    save_model(
        trained(base, 1), tiny_tokenizer(), folder, merge_adapter=False, base=str(base), revision="0123abc"
    )
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == "0123abc"


@pytest.mark.parametrize("on", [True, False])
def test_recomputed_activations_give_the_same_gradients(base: Path, on: bool):
    gradients, passes = [], []
    for recompute in (False, True):
        model = load_model(base)
        if recompute:
            model.activation_checkpointing_enable()
        torch.manual_seed(3)
        policy = add_adapter(model, lora(on=on)).train()
        shake(policy)
        calls: list[int] = []
        backbone(policy).layers[0].self_attn.q_proj.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1)
        )
        completion_logprobs(policy, TREES).logprobs.sum().backward()
        passes.append(len(calls))
        gradients.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert passes == [1, 2]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_adapters_leave_the_precision_of_their_input_to_autocast(base: Path):
    """The gradients are those of peft's own casts, which copy each input twice."""
    gradients = []
    for casts in (False, True):
        policy = trained(base, 1).train()
        layers = [layer for layer in policy.modules() if isinstance(layer, LoraLayer)]
        assert layers and not any(layer.cast_input_dtype_enabled for layer in layers)
        for layer in layers:
            layer.cast_input_dtype_enabled = casts
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = completion_logprobs(policy, TREES).logprobs.sum()
        total.backward()
        gradients.append([p.grad for p in policy.parameters() if p.requires_grad])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_frozen_copy_in_bf16_gives_the_bits_of_its_policy_under_autocast():
    policy = tiny_llama()
    shake(policy)
    reference = Reference(policy, torch.bfloat16)
    trees = [tree([5, 6, 7], [8, 9], [10, 11, 12]), tree([13, 14], [15, 16, 17])]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = completion_logprobs(policy, trees, temperature=0.7).logprobs
        found = reference.logprobs(trees, temperature=0.7, microbatches=[[*range(len(trees))]]).logprobs
    assert torch.equal(found, expected)
    narrow = {name for name, weight in reference.model.named_parameters() if weight.dtype == torch.bfloat16}
    assert len(narrow) == 7 * policy.config.num_hidden_layers and all("proj" in name for name in narrow)
    assert all(weight.dtype == torch.float32 for weight in policy.parameters())
