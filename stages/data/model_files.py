"""A model's files, as far as they can be known to be broken without reading weights: pointers, halves, wrong JSON."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from stages.config.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/"
CONFIG, ADAPTER, INDEX = "config.json", "adapter_config.json", "model.safetensors.index.json"
# What is read as JSON where it is there; a folder may hold other files, that nobody reads.
READ = (
    CONFIG, ADAPTER, INDEX, "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json",
)  # fmt: skip
BINARY = (".safetensors", ".model")
# .txt: GPT-2's merges; .py: the code that trust_remote_code runs
KINDS = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")


def check_files(folder: Path) -> None:
    """Raise UserError for the first file of the model in `folder` that cannot be what it is named."""
    for file in sorted(path for path in folder.iterdir() if path.name in READ or path.suffix in BINARY):
        _check_whole(file)
        if file.name in READ:
            _read_json(file)
        elif file.suffix == ".safetensors":
            _check_header(file)
    if not (folder / CONFIG).exists() and (folder / ADAPTER).exists():
        raise UserError(
            f"model.path: {folder} holds an adapter and no model: merge it into its base (peft's merge_and_unload), "
            "and save that with the tokenizer"
        )
    if (folder / INDEX).exists():
        _check_shards(folder)


def _check_whole(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"model.path: {file} leads to no file: download the model again")
    with file.open("rb") as opened:
        start = opened.read(len(POINTER))
    if start == POINTER:
        raise UserError(
            f"model.path: {file} is a pointer of git-lfs, not the file: run `git lfs pull` in its folder"
        )
    if not start:
        raise UserError(f"model.path: {file} is empty: download the model again")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"model.path: {file} is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"model.path: {file} must hold keys and values")
    return values


def _check_header(file: Path) -> None:
    """The file is as long as its header says: https://github.com/huggingface/safetensors#format."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length if length < size else 0))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (struct.error, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"model.path: {file} is not a safetensors file, or half of one: download it again"
        ) from error
    if size != whole:
        raise UserError(
            f"model.path: {file} has {size} bytes, and its header says {whole}: download it again"
        )


def _check_shards(folder: Path) -> None:
    shards = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"model.path: {folder / INDEX} has no weight_map")
    for name in sorted({str(shard) for shard in shards.values()}):
        if not (folder / name).is_file():
            raise UserError(
                f"model.path: {folder / INDEX} names {name}, which is not there: download the model again"
            )
