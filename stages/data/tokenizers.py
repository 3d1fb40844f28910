"""Tokenizers, and the tokens that end a turn."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase


def load_tokenizer(
    path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or a hub id. Raises OSError or ValueError where there is none."""
    return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def eos_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's EOS, or nothing."""
    return {eos for eos in [tokenizer.eos_token_id] if isinstance(eos, int)}


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, path: str | Path, revision: str | None = None
) -> set[int]:
    """The tokenizer's EOS, and the generation config's: Llama 3 and Gemma end turns with another token."""
    stops = eos_token_ids(tokenizer)
    try:
        listed = GenerationConfig.from_pretrained(path, revision=revision or "main").eos_token_id
    except OSError:
        return stops
    return stops | ({listed} if isinstance(listed, int) else set(listed or []))
