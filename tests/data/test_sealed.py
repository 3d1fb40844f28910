"""What stages write follows from its content alone, and is known again when it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stages.config.errors import UserError
from stages.data.base_model import BaseModel, read_base_model, write_base_model
from stages.data.examples import Example, read_examples, write_examples
from stages.data.sealed import check_sealed, seal_model
from stages.data.tokenizers import load_tokenizer
from stages.models.load import add_adapter, load_model, save_model
from stages.models.reward_kinds import load_reward_model
from stages.seal import seal
from tests.data.tiny import save_tiny_model
from tests.models.tiny import lora, tree


@pytest.mark.parametrize("damage", ["a byte", "a file less", "the digests"])
def test_what_is_damaged_is_named_with_the_remedy(tmp_path: Path, damage: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("abc")
    seal(tmp_path)
    if damage == "a byte":
        (tmp_path / "b").write_text("abd")
    elif damage == "a file less":
        (tmp_path / "b").unlink()
    else:
        (tmp_path / "digests.json").write_text('{"a"')
    file = tmp_path / ("digests.json" if damage == "the digests" else "b")
    with pytest.raises(
        UserError, match=f"^{file} is not what was written .*`chmod -R u.w .dvc/cache`[^\n]*$"
    ):
        check_sealed(tmp_path)
    if damage == "a byte":
        check_sealed(tmp_path / "a")
        with pytest.raises(UserError):
            check_sealed(tmp_path / "b")


@pytest.mark.parametrize("merge", [True, False])
def test_a_damaged_model_is_not_loaded(tmp_path: Path, merge: bool) -> None:
    base = save_tiny_model(tmp_path / "base")
    folder = tmp_path / "sft"
    save_model(
        add_adapter(load_model(base), lora()), load_tokenizer(base), folder, merge_adapter=merge, base=base
    )
    load_model(folder)
    file = folder / ("model.safetensors" if merge else "adapter_model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for load in (load_model, load_reward_model):
        with pytest.raises(UserError, match=f"{file.name} is not what was written there"):
            load(folder)


def test_damaged_data_are_not_read(tmp_path: Path) -> None:
    write_examples(tmp_path / "sft.jsonl", [Example(tree([1], [2]), "p", None, {})])
    write_base_model(tmp_path, BaseModel("model", None, "abc", True, False, [2]))
    seal(tmp_path)
    assert read_examples(tmp_path / "sft.jsonl") and read_base_model(tmp_path)
    for name, read in (
        ("sft.jsonl", read_examples),
        ("model.json", lambda file: read_base_model(file.parent)),
    ):
        file = tmp_path / name
        file.write_text(file.read_text().replace("2", "3"))
        with pytest.raises(UserError, match=f"{name} is not what was written there"):
            read(file)


@pytest.mark.parametrize("merge", [True, False])
def test_a_saved_model_is_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    """Offline or not, from one folder or another, by this or another patch of the libraries."""
    (tmp_path / "here").mkdir()
    save_tiny_model(tmp_path / "here" / "base")
    found = []
    for place in ("here", "elsewhere"):
        if place == "elsewhere":
            (tmp_path / "here").rename(tmp_path / place)
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            for module in ("configuration_utils", "generation.configuration_utils"):
                monkeypatch.setattr(f"transformers.{module}.__version__", "5.99.0")
            monkeypatch.setattr("peft.config.__version__", "0.99.0", raising=False)
        base = tmp_path / place / "base"
        torch.manual_seed(0)
        model = add_adapter(load_model(base), lora())
        folder = tmp_path / place / "sft"
        save_model(model, load_tokenizer(base), folder, merge_adapter=merge, base=base)
        found.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert found[0] == found[1]
    text = b"".join(content for name, content in found[0].items() if name.endswith(".json")).decode()
    for word in ("local_files_only", "is_local", "peft_version", 'name_or_path": "/', str(tmp_path), "5.23"):
        assert word not in text
    if not merge:
        targets = json.loads(found[0]["adapter_config.json"])["target_modules"]
        assert targets == sorted(targets)  # a set, whose order changes with each process


def test_sealing_a_model_twice_changes_nothing(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    seal_model(folder, [257])
    once = {file.name: file.read_bytes() for file in folder.iterdir()}
    seal_model(folder, [257])
    assert once == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert load_tokenizer(folder).eos_token_id == 257
