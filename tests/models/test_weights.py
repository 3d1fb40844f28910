"""What is loaded is what the files hold: nothing is made up, nothing is left out, nothing sees the future."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from stages.config.errors import UserError
from stages.models.door import check_model
from stages.models.load import add_adapter, load_model, save_model
from stages.models.reward import HEAD, RewardModel
from stages.models.reward_kinds import load_reward_model
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import SHAPE, lora, tiny_llama

Weights = dict[str, Tensor]
UP = "model.layers.1.mlp.up_proj.weight"
PLAIN = lora(on=False)


def save(folder: Path, model: Any, change: Callable[[Weights], Weights], **config: Any) -> Path:
    """The model with other weights or another config than its own."""
    model.save_pretrained(folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {k: w for k, w in weights.items() if not any(part in k for part in parts)}


DAMAGES: dict[str, tuple[Callable[[Weights], Weights], dict[str, Any], str]] = {
    "a tensor": (without(UP), {}, rf"config.json: 1 missing \({UP}\); take the whole model"),
    "a layer": (dict, {"num_hidden_layers": 3}, r"9 missing \(model.layers.2.input_layernorm.weight, .*\.\.\.\)"),
    "a layer too many": (dict, {"num_hidden_layers": 1}, r"9 not asked for \(model.layers.1.input_layernorm"),
    "a prefix": (
        lambda weights: {f"module.{key}": weight for key, weight in weights.items()},
        {},
        r"21 missing \(lm_head.weight, .*21 not asked for \(module.lm_head.weight",
    ),
    "a shape": (dict, {"intermediate_size": 40}, r"6 of another shape \(model.layers.0.mlp.down_proj"),
    "a head": (without("lm_head"), {}, r"1 missing \(lm_head.weight\)"),
    "Llama as BERT": (
        dict,
        {"model_type": "bert", "is_decoder": True, "architectures": ["BertLMHeadModel"]},
        r"missing \(bert\.embeddings",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_config_json_does_not_ask_for_are_refused_by_name(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
):
    change, config, message = DAMAGES[damage]
    folder = save(tmp_path, tiny_llama(), change, **config)
    capfd.readouterr()
    for load in (load_model, lambda path: check_model(PLAIN, path)):  # the second reads headers alone
        with pytest.raises(UserError, match=message):
            load(folder)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())  # one line says it


@pytest.mark.parametrize("part", ["experts.3.", "experts.3.w1"])
def test_an_expert_that_is_missing_is_found_behind_the_conversion(tmp_path: Path, part: str):
    """Experts are fused while they are loaded, so that no key of the model itself is missing."""
    model = MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=4))
    folder = save(tmp_path, model, without(part))
    for load in (load_model, lambda path: check_model(PLAIN, path)):
        with pytest.raises(UserError, match=r"another shape.*model.layers\..*mlp.experts"):
            load(folder)


def test_ties_old_buffers_and_a_fresh_head_are_nothing_missing(tmp_path: Path):
    tied = tiny_llama(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    load_model(tmp_path / "tied")

    def old(weights: Weights) -> Weights:
        return weights | {"h.0.attn.masked_bias": torch.ones(1), "h.0.attn.bias": torch.ones(1, 1, 8, 8)}

    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)
    load_model(save(tmp_path / "gpt2", GPT2LMHeadModel(config), old))

    kind = AutoModelForSequenceClassification
    tiny_llama().save_pretrained(tmp_path / "plain")  # with a head for the vocabulary
    load_model(tmp_path / "plain", kind, num_labels=1, fresh=HEAD)
    with pytest.raises(UserError, match=r"1 missing \(score.weight\); 1 not asked for \(lm_head.weight\)"):
        load_model(tmp_path / "plain", kind, num_labels=1)


@pytest.mark.parametrize("merge", [True, False])
def test_a_reward_model_without_its_head_is_refused(tmp_path: Path, merge: bool):
    tiny_llama().save_pretrained(tmp_path / "sft")
    model = RewardModel.from_policy(tmp_path / "sft", lora()).model
    folder = tmp_path / "reward_model"
    save_model(model, tiny_tokenizer(), folder, merge_adapter=merge, base=tmp_path / "sft")
    (folder / "digests.json").unlink()
    file = folder / ("model.safetensors" if merge else "adapter_model.safetensors")
    save_file(without("score")(load_file(file)), file, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(.*score.*weight"):
        load_reward_model(folder)


def test_a_model_that_sees_the_future_is_refused(tmp_path: Path):
    config = BertConfig(**SHAPE, is_decoder=False)
    xlnet = XLNetConfig(vocab_size=97, d_model=32, d_inner=48, n_layer=2, n_head=4)
    for model in (BertLMHeadModel(config), XLNetLMHeadModel(xlnet)):
        model.save_pretrained(tmp_path / "both")
        with pytest.raises(UserError, match=f"{type(model).__name__} cannot be trained: it sees the tokens"):
            load_model(tmp_path / "both")
    config.is_decoder = True
    BertLMHeadModel(config).save_pretrained(tmp_path / "causal")
    load_model(tmp_path / "causal")


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_no_pickle_is_read(tmp_path: Path, name: str):
    tiny_llama().save_pretrained(tmp_path / "base")
    folder = tmp_path / "model"
    if name.startswith("adapter"):
        save_model(
            add_adapter(load_model(tmp_path / "base"), lora()), tiny_tokenizer(), folder,
            merge_adapter=False, base=tmp_path / "base",
        )  # fmt: skip
        (folder / "digests.json").unlink()
    else:
        shutil.copytree(tmp_path / "base", folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match="cannot be loaded: .*safetensors"):
        load_model(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_hub_model_without_safetensors_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In the hub's cache, as a download leaves it."""
    commit = "0" * 40
    repo = tmp_path / "models--someone--old"
    folder = repo / "snapshots" / commit
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    tiny_llama().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="someone/old: the model cannot be loaded: [^\n]*safetensors"):
        check_model(PLAIN, "someone/old")
    assert not (tmp_path / "sprung").exists()


BROKEN_ADAPTERS: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "a key less": (without("layers.1.self_attn.q_proj.lora_A"), r"adapter_config.json and base: 1 missing \(base_m"),
    "another's key": (lambda weights: weights | {"base_model.model.x.lora_A.weight": torch.ones(1)}, "1 not asked for"),
    "a shape": (lambda weights: {k: w[:1].contiguous() for k, w in weights.items()}, "does not fit its base"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN_ADAPTERS)
def test_an_adapter_that_is_not_whole_is_refused(tmp_path: Path, damage: str):
    change, message = BROKEN_ADAPTERS[damage]
    tiny_llama().save_pretrained(tmp_path / "base")
    model, folder = add_adapter(load_model(tmp_path / "base"), lora()), tmp_path / "adapter"
    save_model(model, tiny_tokenizer(), folder, merge_adapter=False, base=tmp_path / "base")
    (folder / "digests.json").unlink()
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_the_router_s_loss_is_told_of_where_a_config_asks_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for asks in (False, True):
        config = MixtralConfig(**SHAPE, num_local_experts=4, output_router_logits=asks)
        MixtralForCausalLM(config).save_pretrained(tmp_path / str(asks))
        load_model(tmp_path / str(asks))
        assert ("balancing loss (router_aux_loss_coef) is not added" in caplog.text) == asks
