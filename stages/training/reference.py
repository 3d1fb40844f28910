"""The reference of a whole run: computed before its first step, and kept for every run that asks for the same."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import peft
import torch
import transformers
from accelerate import Accelerator
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.algorithms.base import WithReference
from stages.config.compose import ROOT
from stages.config.schema import TrainingSettings
from stages.data.digest import path_digest
from stages.data.examples import Example
from stages.distributed import max_over_ranks, sum_over_ranks
from stages.models.reference_table import (
    ReferenceTable,
    completion_keys,
    microbatches_once,
    reference_digest,
)
from stages.progress import progress
from stages.training.order import step_batch, total_steps
from stages.trees import Tree

log = logging.getLogger(__name__)

CODE = (
    "stages/models", "stages/layout.py", "stages/packing.py", "stages/runs.py", "stages/trees.py",
    "stages/machine.py", "stages/training/reference.py",
)  # fmt: skip
NAME = "logprobs"
KEPT = 16  # tables of four bytes a completion


def fill_reference(
    algorithm: WithReference, examples: Sequence[Example], settings: TrainingSettings, seed: int, folder: Path,
    accelerator: Accelerator,
) -> None:  # fmt: skip
    """Fill the algorithm's table with all that the run's steps will look up, from `folder` where it is there already.

    To be called while the policy has the weights that the run began with: before a checkpoint is restored. Every
    process gets the whole table.
    """
    ranks = accelerator.num_processes
    requests = (
        trees
        for step in range(total_steps(len(examples), settings))
        for rank in range(ranks)
        for trees in algorithm.reference_trees(step_batch(examples, step, settings, seed, rank, ranks))
    )
    groups = microbatches_once(requests, settings.max_tokens)
    keys = [list(completion_keys(group)) for group in groups]
    path = folder / f"{_digest(algorithm.reference, keys, accelerator)}.safetensors"
    values = _read(path, accelerator.device)
    absent = bool(max_over_ranks(torch.tensor(int(values is None), device=accelerator.device)))
    if values is None or absent:  # all processes compute, or none
        values = _compute(algorithm.reference, groups, accelerator)
        if accelerator.is_main_process:
            _write(path, values)
    elif accelerator.is_main_process:
        log.info("the reference's log-probabilities of %d completions are known: %s", len(values), path)
    algorithm.reference.fill((key for group in keys for key in group), values)


def _digest(table: ReferenceTable, keys: Sequence[Sequence[bytes]], accelerator: Accelerator) -> str:
    """Of all that the numbers follow from, how completions share microbatches included: that decides the last bits."""
    device, precision = accelerator.device.type, accelerator.mixed_precision
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    versions = [torch.__version__, transformers.__version__, peft.__version__]
    machine = [device, precision, torch.get_num_threads()]
    parts = [
        reference_digest(table.policy),
        *(path_digest(ROOT / path) for path in CODE),
        *versions,
        *machine,
    ]
    digest = hashlib.sha256(" ".join(map(str, parts)).encode())
    for group in keys:
        digest.update(f" {len(group)} ".encode() + b"".join(group))
    return digest.hexdigest()[:16]


@torch.no_grad()
def _compute(
    table: ReferenceTable, groups: Sequence[Sequence[Tree]], accelerator: Accelerator
) -> Float[Tensor, " rows"]:
    """Each process scores its share of the microbatches; the others' rows are 0 there, and the sum is the table."""
    sizes = [sum(len(tree.completions) for tree in group) for group in groups]
    values = torch.zeros(sum(sizes), device=accelerator.device)
    rows = values.split(sizes)
    mine = range(accelerator.process_index, len(groups), accelerator.num_processes)
    silent = not accelerator.is_main_process
    table.policy.eval()
    with accelerator.autocast():
        for index in progress(mine, desc="reference", unit="microbatch", disable=silent):
            rows[index].copy_(table.score(groups[index]))
    return sum_over_ranks(values)


def _read(path: Path, device: torch.device) -> Float[Tensor, " rows"] | None:
    """None where there is no whole file."""
    try:
        values = load_file(path)[NAME].to(device)
        path.touch()  # the tables used last are kept
    except (OSError, SafetensorError):
        return None
    return values


def _write(path: Path, values: Float[Tensor, " rows"]) -> None:
    """Beside its place, then renamed; the tables used longest ago make room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")  # runs of a sweep may write the same table at once
    save_file({NAME: values.cpu()}, partial)
    partial.rename(path)
    with suppress(FileNotFoundError):  # another run is making room, too
        for old in sorted(path.parent.iterdir(), key=lambda file: -file.stat().st_mtime)[KEPT:]:
            old.unlink()
