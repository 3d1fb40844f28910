"""The reference of a whole run: computed before its first step, and kept for every run that asks for the same."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from stages.algorithms.base import WithReference
from stages.algorithms.batch import batch_of
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
from stages.training.computing import computing
from stages.training.order import step_batch, total_steps
from stages.training.reference_files import read_table, write_table
from stages.trees import Tree

log = logging.getLogger(__name__)

CODE = (
    "stages/models", "stages/layout.py", "stages/packing.py", "stages/runs.py", "stages/trees.py",
    "stages/machine.py", "stages/training/reference.py",
)  # fmt: skip


def fill_reference(
    algorithm: WithReference, examples: Sequence[Example], held_out: Sequence[Example], settings: TrainingSettings,
    seed: int, folder: Path, accelerator: Accelerator,
) -> None:  # fmt: skip
    """Fill the algorithm's table with all that the run's steps, and its evaluations on `held_out`, will look up; from
    `folder` where it is there already.

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
    evaluations = algorithm.reference_trees(batch_of(held_out)) if held_out else ()
    groups = microbatches_once(chain(requests, evaluations), settings.max_tokens)
    keys = [list(completion_keys(group)) for group in groups]
    path = folder / f"{_digest(algorithm.reference, keys, accelerator)}.safetensors"
    values = read_table(path, sum(map(len, keys)), accelerator.device)
    absent = bool(max_over_ranks(torch.tensor(int(values is None), device=accelerator.device)))
    if values is None or absent:  # all processes compute, or none
        values = _compute(algorithm.reference, groups, accelerator)
        if accelerator.is_main_process:
            write_table(path, values)
    elif accelerator.is_main_process:
        log.info("the reference's log-probabilities of %d completions are known: %s", len(values), path)
    algorithm.reference.fill((key for group in keys for key in group), values)


def _digest(table: ReferenceTable, keys: Sequence[Sequence[bytes]], accelerator: Accelerator) -> str:
    """Of all that the numbers follow from, how completions share microbatches included: that decides the last bits."""
    code = (path_digest(ROOT / path) for path in CODE)
    parts = [reference_digest(table.policy), *code, *computing(accelerator).values()]
    digest = hashlib.sha256(" ".join(parts).encode())
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
