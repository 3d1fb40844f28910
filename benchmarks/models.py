"""Models to measure with: shapes of random weights, and the folder of one with the embedded model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.data import CACHE
from stages.data.embedded import load_embedded_tokenizer


def llama(hidden: int, layers: int, heads: int, kv_heads: int, vocab: int) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": hidden * 8 // 3 // 64 * 64,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": vocab, "tie_word_embeddings": True,
    }  # fmt: skip


def qwen3(hidden: int, intermediate: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": True,
    }  # fmt: skip


SMOLLM2 = llama(576, 30, 9, 3, 49152)
RANDOM = {
    "llama-20m": llama(256, 10, 4, 4, 49152),  # for a try
    "qwen3-0.6b": qwen3(1024, 3072),
    "qwen3-1.7b": qwen3(2048, 6144),
}


def model_folder(name: str) -> Path:
    """A folder as it is, or one of RANDOM, made where it is not there yet. Raises SystemExit for what is neither."""
    folder = CACHE / "models" / name if name in RANDOM else Path(name).resolve()
    if not (folder / "config.json").exists():
        if name not in RANDOM:
            raise SystemExit(
                f"--model {name}: neither a folder with a config.json nor one of {', '.join(RANDOM)}"
            )
        tokenizer = load_embedded_tokenizer()
        torch.manual_seed(0)
        ends = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**RANDOM[name], **ends))
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return folder
