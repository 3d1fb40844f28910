"""The reference's log-probabilities in files, for other runs: checked when they are read, and no reason for a run to
fail."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from xxhash import xxh3_128_hexdigest

log = logging.getLogger(__name__)

TENSOR = "logprobs"  # of each completion, in nats
DIGEST = "xxh3_128"  # of the values, in the file's metadata
MAX_FILES = 16  # of four bytes a completion


def read_table(path: Path, rows: int, device: torch.device) -> Float[Tensor, " rows"] | None:
    """The log-probabilities of `rows` completions. None where there is no such file; and, with a warning, where it
    cannot be used."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get(DIGEST)
            values = file.get_tensor(TENSOR)
    except (OSError, SafetensorError) as error:
        values, fault = None, str(error)
    else:
        fault = _fault(values, rows, digest)
    if values is None or fault:
        log.warning("the reference's table %s cannot be used (%s): it is computed again", path, fault)
        return None
    with suppress(OSError):  # write_table removes those used longest ago
        path.touch()
    return values.to(device)


def _fault(values: Tensor, rows: int, digest: str | None) -> str | None:
    if values.dtype != torch.float32 or values.shape != (rows,):
        return f"{tuple(values.shape)} in {values.dtype}, not ({rows},) in torch.float32"
    return None if _digest(values) == digest else "its content is not what was written"


def write_table(path: Path, values: Float[Tensor, " rows"]) -> None:
    """Write it beside its place, rename it, and remove the files used longest ago beyond MAX_FILES. A failure is a
    warning."""
    values = values.cpu()
    partial = path.with_suffix(f".{os.getpid()}")  # runs of a sweep may write the same table at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({TENSOR: values}, partial, {DIGEST: _digest(values)})
        partial.rename(path)
        files = [file for file in path.parent.iterdir() if file.is_file()]
        for old in sorted(files, key=lambda file: -file.stat().st_mtime)[MAX_FILES:]:
            old.unlink()
    except FileNotFoundError:  # another run removes old files at the same time
        return
    except (OSError, SafetensorError) as error:
        log.warning("the reference's table is not kept for other runs: %s: %s", path, error)
        with suppress(OSError):
            partial.unlink()


def _digest(values: Float[Tensor, " rows"]) -> str:
    return xxh3_128_hexdigest(values.numpy().data)
