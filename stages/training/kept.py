"""Tables of the reference's log-probabilities that are kept for other runs: checked when they are read, and never worth
a run."""

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

NAME = "logprobs"
DIGEST = "xxh3_128"  # of the values, in the file's metadata
KEPT = 16  # tables of four bytes a completion


def read_table(path: Path, rows: int, device: torch.device) -> Float[Tensor, " rows"] | None:
    """None where there is none, or none that can be used, which is said."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get(DIGEST)
            values = file.get_tensor(NAME)
    except (OSError, SafetensorError) as error:
        values, fault = None, str(error)
    else:
        fault = _fault(values, rows, digest)
    if values is None or fault:
        log.warning("the reference's table %s cannot be used (%s): it is computed again", path, fault)
        return None
    with suppress(OSError):  # the tables used last are kept
        path.touch()
    return values.to(device)


def _fault(values: Tensor, rows: int, digest: str | None) -> str | None:
    if values.dtype != torch.float32 or values.shape != (rows,):
        return f"{tuple(values.shape)} in {values.dtype}, not ({rows},) in torch.float32"
    return None if _digest(values) == digest else "its content is not what was written"


def write_table(path: Path, values: Float[Tensor, " rows"]) -> None:
    """Beside its place, then renamed; the tables used longest ago make room. Where that cannot be, the run goes on."""
    values = values.cpu()
    partial = path.with_suffix(f".{os.getpid()}")  # runs of a sweep may write the same table at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({NAME: values}, partial, {DIGEST: _digest(values)})
        partial.rename(path)
        files = [file for file in path.parent.iterdir() if file.is_file()]
        for old in sorted(files, key=lambda file: -file.stat().st_mtime)[KEPT:]:
            old.unlink()
    except FileNotFoundError:  # another run is making room, too
        return
    except (OSError, SafetensorError) as error:
        log.warning("the reference's table is not kept for other runs: %s: %s", path, error)
        with suppress(OSError):
            partial.unlink()


def _digest(values: Float[Tensor, " rows"]) -> str:
    return xxh3_128_hexdigest(values.numpy().data)
