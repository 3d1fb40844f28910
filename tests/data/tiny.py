"""A tokenizer of one token per byte, a chat template, and a model of a few weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
EOS, BOS, START = "<eos>", "<bos>", "<start>"

CHATML = (
    "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str | None = CHATML, specials: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Bytes as tokens, so that lengths are lengths of the text and masks can be read."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, bos_token=BOS)
    wrapped.add_special_tokens({"additional_special_tokens": [START, *specials]})
    wrapped.chat_template = template
    return wrapped


def targets(tokenizer: PreTrainedTokenizerBase, node: Any) -> list[str]:
    """The runs of target tokens as text."""
    runs, current = [], []
    for token, is_target in zip([*node.input_ids, None], [*node.loss_mask, False], strict=True):
        if is_target:
            current.append(token)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    return runs


def save_tiny_model(folder: Path, template: str | None = CHATML, **changes: Any) -> Path:
    """A Llama of 2 layers with the tiny tokenizer, as `from_pretrained` wants it; `changes` of its config."""
    tokenizer = tiny_tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.convert_tokens_to_ids(EOS),
        **changes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_config(*overrides: str) -> DictConfig:
    """The defaults of conf/, with overrides such as data.sft.source=files."""
    groups = {name: OmegaConf.load(ROOT / "conf" / name / "default.yaml") for name in ("data", "model")}
    defaults = OmegaConf.create({"seed": 1, **groups})
    return OmegaConf.merge(defaults, OmegaConf.from_dotlist(list(overrides)))  # pyright: ignore[reportReturnType]
