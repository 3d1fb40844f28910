"""Files that are not what they are named are found before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import BertConfig, PreTrainedTokenizerFast

from stages.config.errors import UserError
from stages.config.space import parameters
from stages.data.base_model import find_base_model
from stages.data.model_files import check_files
from stages.models.door import check_model
from tests.data.tiny import make_config, save_tiny_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 22384\n"


def set_json(name: str, **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | values))

    return change


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def only_adapter(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def mute_tokenizer(folder: Path) -> None:
    """That of a vocabulary without letters."""
    tokenizer = Tokenizer(models.BPE(vocab={"<eos>": 0}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blobs" / "0")


WEIGHTS, CONFIG = "model.safetensors", "config.json"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights as a pointer": (text(WEIGHTS, POINTER), "model.safetensors is a pointer of git-lfs.*`git lfs pull`"),
    "a tokenizer as a pointer": (text("tokenizer.json", POINTER), "tokenizer.json is a pointer of git-lfs"),
    "half of the weights": (cut(WEIGHTS, 20_000), "model.safetensors has 20000 bytes, and its header says [0-9]+"),
    "half of the header": (cut(WEIGHTS, 100), "model.safetensors is not a safetensors file, or half of one"),
    "weights of nothing": (cut(WEIGHTS, 0), "model.safetensors is empty"),
    "other weights": (text(WEIGHTS, "PK" * 99), "model.safetensors is not a safetensors file"),
    "a link to nothing": (dangling, "model.safetensors leads to no file"),
    "a shard less": (index, "index.json names model-00002-of-00002.safetensors, which is not there"),
    "half a config": (cut(CONFIG, 100), "config.json is not JSON"),
    "a config of nothing": (cut(CONFIG, 0), "config.json is empty"),
    "a list for a config": (text(CONFIG, "[]"), "config.json must hold keys and values"),
    "half a generation config": (cut("generation_config.json", 20), "generation_config.json is not JSON"),
    "half a tokenizer": (cut("tokenizer.json", 999), "tokenizer.json is not JSON"),
    "half an adapter": (text("adapter_config.json", "{"), "adapter_config.json is not JSON"),
    "an adapter alone": (only_adapter, "holds an adapter and no model"),
    "a word for a width": (set_json(CONFIG, hidden_size="x"), "cannot find the model .*hidden_size.*expected int"),
    "heads that do not fit": (set_json(CONFIG, num_attention_heads=3), "not a multiple of the number of attention"),
    "no such family": (set_json(CONFIG, model_type="foo"), "model type `foo`"),
    "no such rope": (set_json(CONFIG, rope_parameters={"rope_type": "nope", "rope_theta": 1.0}), "nope"),
    "rope as a word": (set_json(CONFIG, rope_parameters="x"), "rope_parameters"),
    "rope without its factor": (set_json(CONFIG, rope_parameters={"rope_type": "linear"}), "factor"),
    "a word for a factor": (
        set_json(CONFIG, rope_parameters={"rope_type": "yarn", "rope_theta": 1.0, "factor": "x"}), "cannot be loaded",
    ),
    "a word for EOS": (set_json("generation_config.json", eos_token_id="</s>"), "eos_token_id is '</s>'"),
    "no new tokens": (set_json("generation_config.json", max_new_tokens=-3), "generation_config.json: `max_new_tok"),
    "a tokenizer without a model": (set_json("tokenizer.json", model={}), "no tokenizer that can be loaded"),
    "a number for a token": (set_json("tokenizer_config.json", eos_token=5), "no tokenizer that can be loaded"),
    "a tokenizer without letters": (mute_tokenizer, "knows none of the characters"),
    "BERT": (lambda folder: BertConfig().save_pretrained(folder), "'bert' model that sees what follows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    folder = save_tiny_model(tmp_path)
    check_files(folder)
    change, message = BROKEN[name]
    change(folder)
    config = make_config(f"model.path={folder}")
    assert parameters(config) >= 0  # which asks how much room it takes, before anything looks at it
    with pytest.raises(UserError, match=message) as caught:  # prepare's two looks at a model
        find_base_model(config.model)
        check_model(config.model, folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_files_that_nobody_reads_may_be_anything(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    (folder / "trainer_state.json").write_text("{")
    (folder / "training_args.bin").write_bytes(b"")
    (folder / "checkpoint-1").mkdir()
    check_files(folder)
