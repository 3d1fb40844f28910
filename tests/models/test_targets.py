"""Adapters of every kind of module: reloaded they give what was trained, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MambaConfig, PreTrainedConfig

from stages.config.errors import UserError
from stages.models.door import check_model
from stages.models.load import add_adapter, load_model, save_model
from stages.models.logprobs import completion_logprobs
from stages.models.reward_kinds import REWARD_MODELS, load_reward_model
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import SHAPE, lora, shake, tiny_llama, tree

TREES = [tree([1, 9, 8], [7, 6, 5], [11, 2]), tree([1, 20], [30, 31, 32, 2])]
TIED = LlamaConfig(**SHAPE, tie_word_embeddings=True)
MAMBA = MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8)


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return completion_logprobs(model, TREES).logprobs


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "prepare" / "model")
    return tmp_path / "prepare" / "model"


def write(model, folder: Path, base: Path, *, merge: bool) -> Path:
    save_model(model, tiny_tokenizer(), folder, merge_adapter=merge, base=base)
    return folder


TARGETS: dict[str, list[str] | str] = {
    "attention": ["q_proj", "v_proj"],
    "MLP": ["gate_proj", "down_proj"],
    "all-linear": "all-linear",
    "a pattern": r".*layers\.1\..*_proj",
    "embeddings": ["embed_tokens"],
    "head": ["lm_head"],
    "all of them": ["embed_tokens", "lm_head", "q_proj", "up_proj"],
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_reloaded_log_probabilities_are_the_trained_ones(
    base: Path, tmp_path: Path, target: str, merge: bool
):
    model = add_adapter(load_model(base), lora(lora_target_modules=TARGETS[target]))
    untrained = logprobs(model)
    shake(model)
    expected = logprobs(model)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = logprobs(model)
    assert (expected - untrained).abs().max() > 0.1
    loaded = load_model(write(model, tmp_path / "sft", base, merge=merge))
    torch.testing.assert_close(logprobs(loaded), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(logprobs(loaded), narrow, rtol=0, atol=0.2)


@pytest.mark.parametrize("merge", [True, False])
def test_reloaded_log_probabilities_of_other_families(tmp_path: Path, merge: bool):
    """GPT-2, tied and made of transposed products; Mamba, whose products peft lets be adapted in part."""
    gpt2 = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    for config, targets in ((gpt2, "all-linear"), (MAMBA, ["in_proj", "x_proj"])):
        folder = tmp_path / config.model_type
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
        model = add_adapter(load_model(folder / "base"), lora(lora_target_modules=targets))
        shake(model)
        expected = logprobs(model)
        loaded = load_model(write(model, folder / "sft", folder / "base", merge=merge))
        torch.testing.assert_close(logprobs(loaded), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("target", ["attention", "MLP", "embeddings"])
@pytest.mark.parametrize("kind", REWARD_MODELS)
def test_reloaded_rewards_are_the_trained_ones(
    base: Path, tmp_path: Path, kind: str, target: str, merge: bool
):
    reward_model = REWARD_MODELS[kind].from_policy(base, lora(lora_target_modules=TARGETS[target]))
    shake(reward_model, seed=4)
    expected = reward_model.score(TREES, 4096)
    loaded = load_reward_model(write(reward_model.model, tmp_path / "rm", base, merge=merge))
    torch.testing.assert_close(loaded.score(TREES, 4096), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", REWARD_MODELS)
def test_a_reward_model_begins_on_an_sft_adapter_of_the_head(base: Path, tmp_path: Path, kind: str):
    """A classifier has no place for it; the likelihood goes through it."""
    sft = add_adapter(load_model(base), lora(lora_target_modules=["lm_head", "q_proj"]))
    shake(sft)
    folder = write(sft, tmp_path / "sft", base, merge=False)
    reward_model = REWARD_MODELS[kind].from_policy(folder, lora(on=False))
    if kind == "likelihood":
        torch.testing.assert_close(reward_model(TREES), logprobs(sft).sum(1), rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[PreTrainedConfig, list[str] | str, str]] = {
    "a tied head": (TIED, ["q_proj", "lm_head"], "lm_head shares its weights with another module"),
    "tied embeddings": (TIED, ["embed_tokens"], "embed_tokens shares its weights with another module"),
    "no such module": (TIED, ["q_proj", "k_prj"], r"no module 'k_prj'; did you mean 'k_proj'\?"),
    "no such pattern": (TIED, "nope", "Target modules nope not found"),
    "no product": (TIED, ["norm"], "Target module .* is not supported"),
    "Mamba": (MAMBA, "all-linear", "incompatible with Mamba-based models"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_cannot_be_are_refused_before_weights_are_read(tmp_path: Path, case: str):
    config, targets, message = REFUSED[case]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    settings = lora(lora_target_modules=targets)
    for check in (
        lambda: check_model(settings, tmp_path),
        lambda: add_adapter(load_model(tmp_path), settings),
    ):
        with pytest.raises(UserError, match=f"^params.yaml: model.lora_target_modules: .*{message}[^\n]*$"):
            check()
