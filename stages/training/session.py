"""What every trained stage does around the loop: device, precision, schedule, digest of the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from accelerate import Accelerator

from stages.algorithms.base import Algorithm
from stages.config.errors import UserError
from stages.config.schema import TrainingSettings
from stages.data.digest import file_digest
from stages.data.examples import Example, read_examples
from stages.outcome import Outcome
from stages.training.evaluation import HeldOut
from stages.training.loop import Schedule, train
from stages.workspace import REFERENCES, SELECTION, Stage

log = logging.getLogger(__name__)


def make_accelerator(settings: TrainingSettings) -> Accelerator:
    """Accelerate as the launch says, in the precision that the config says. Raises UserError where a step's examples
    cannot be shared out evenly."""
    # cuBLAS reads it at its first product: with this, equal products have equal bits
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    accelerator = Accelerator(mixed_precision="bf16" if settings.bf16 else "no")
    if settings.batch_size % accelerator.num_processes:
        raise UserError(
            f"params.yaml: batch_size {settings.batch_size} cannot be shared out over {accelerator.num_processes} "
            f"processes; it must be a multiple of {accelerator.num_processes}"
        )
    threads = f", {torch.get_num_threads()} threads" if accelerator.device.type == "cpu" else ""
    log.info(
        "computing on %s in %s%s", accelerator.device, "bfloat16" if settings.bf16 else "float32", threads
    )
    return accelerator


def run_training(
    run: Stage, algorithm: Algorithm, examples: Sequence[Example], settings: TrainingSettings,
    accelerator: Accelerator, held_out: HeldOut,
) -> Outcome:  # fmt: skip
    """Train with this stage's checkpoints, tracker and seed, and write selection.json. Raises UserError where a step's
    examples cannot be shared out evenly."""
    check_shares(len(examples), settings.batch_size, accelerator.num_processes)
    schedule = Schedule(run.config.seed, run.config.run.save_steps, run.checkpoint_dir, REFERENCES)
    outcome = train(algorithm, examples, settings, schedule, accelerator, run.tracker, held_out)
    accelerator.wait_for_everyone()
    if outcome.metric is not None and outcome.value is not None:
        name = outcome.metric.removeprefix("eval/")
        run.tracker.log_summary({"eval/best_step": outcome.kept_step, f"eval/best_{name}": outcome.value})
    if run.is_main:
        log.info("%s", outcome.sentence())
        outcome.write(run.output / SELECTION)
    return outcome


def check_shares(rows: int, batch_size: int, processes: int) -> None:
    """A step takes `batch_size` of all rows, or all that there are; every process the same number of them.

    Raises UserError where that cannot be.
    """
    if rows < processes:
        raise UserError(f"{rows} examples cannot be shared out over {processes} processes: start fewer")
    if min(rows, batch_size) % processes:
        raise UserError(
            f"{rows} examples, fewer than batch_size {batch_size}, cannot be shared out over {processes} processes: "
            f"set batch_size to {rows // processes * processes}"
        )


def load_rows(run: Stage, name: str, limit: int | None = None) -> list[Example]:
    """A file of prepare's examples, or the first `limit` of them, with the file's digest logged."""
    path = run.input("prepare") / f"{name}.jsonl"
    examples = read_examples(path)[:limit]
    run.tracker.log_dataset(name, file_digest(path), len(examples))
    return examples
