"""Tokens that the model has no embedding for are found in prepare."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import Gemma3Config, LlamaConfig

from stages.config.errors import UserError
from stages.data.positions import vocabulary_size
from stages.prepare import prepare
from tests.data.tiny import make_config, save_tiny_model, tiny_tokenizer, write_jsonl


def test_a_tokenizer_larger_than_the_vocabulary_is_refused_where_the_data_use_it(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")  # of 259 tokens
    tiny_tokenizer(specials=("<think>",)).save_pretrained(model)
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(4)]
    for word in ("", "<think>"):
        path = write_jsonl(tmp_path / "rows.jsonl", [*rows, {**rows[0], "prompt": f"{word} more"}])
        own = [
            f"data.{role}.{key}"
            for role in ("sft", "preference", "prompt")
            for key in ("source=files", f"path={path}")
        ]
        config = make_config(
            f"model.path={model}", "data.test_size=1", "data.validation_size=1", "data.verifier=null", *own
        )
        out = tmp_path / f"out{word}"
        out.mkdir()
        if not word:
            prepare(config, out)
            continue
        with pytest.raises(
            UserError, match="writes '<think>' in data.sft as number 259, and the model has 259 tokens"
        ):
            prepare(config, out)
        assert list(out.iterdir()) == []


def test_the_size_may_be_that_of_a_nested_config(tmp_path: Path) -> None:
    Gemma3Config(text_config={"vocab_size": 123}).save_pretrained(tmp_path / "nested")
    LlamaConfig(vocab_size=321).save_pretrained(tmp_path / "plain")
    sizes = [
        vocabulary_size(make_config(f"model.path={tmp_path / name}").model) for name in ("nested", "plain")
    ]
    assert sizes == [123, 321]
    assert vocabulary_size(make_config().model) is None  # embedded
