"""Tokenizers, and the tokens that end a turn."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from stages.config.errors import UserError, first_line

TRIAL = "Two and 2 are four."


def load_tokenizer(
    path: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or a hub id. Raises OSError or ValueError where there is none."""
    return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Raise UserError where it cannot make tokens of a text."""
    try:
        ids = tokenizer(TRIAL, add_special_tokens=False).input_ids
    except Exception as error:  # tokenizers raises no kind of its own
        raise UserError(
            f"model.path: the tokenizer of {path} cannot read a text: {first_line(error)}"
        ) from error
    if all(token == tokenizer.unk_token_id for token in ids):
        raise UserError(f"model.path: the tokenizer of {path} knows none of the characters of {TRIAL!r}")


def eos_token_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's EOS, or nothing."""
    return {eos for eos in [tokenizer.eos_token_id] if isinstance(eos, int)}


def stop_token_ids(
    tokenizer: PreTrainedTokenizerBase, path: str | Path, revision: str | None = None
) -> set[int]:
    """The tokenizer's EOS, and the generation config's: Llama 3 and Gemma end turns with another token.

    Raises UserError where the generation config cannot be read.
    """
    stops = eos_token_ids(tokenizer)
    try:
        listed = GenerationConfig.from_pretrained(path, revision=revision or "main").eos_token_id
    except OSError:  # there is none
        return stops
    except Exception as error:  # it checks its values, and raises what it likes
        raise UserError(f"model.path: {path}: generation_config.json: {first_line(error)}") from error
    ids = [listed] if isinstance(listed, int) else listed or []
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise UserError(
            f"model.path: {path}: generation_config.json: eos_token_id is {listed!r}, which is neither a number nor a "
            "list of numbers"
        )
    return stops | set(ids)
