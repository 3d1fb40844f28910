"""The one training loop. It knows no algorithm's name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator

from stages.algorithms.base import Algorithm, WithReference
from stages.config.schema import TrainingSettings
from stages.data.examples import Example
from stages.heap import give_back_freed_memory
from stages.progress import progress, say
from stages.training.checkpoints import Checkpoints
from stages.training.meter import Meter
from stages.training.order import seed_step, step_batch, total_steps
from stages.training.reference import fill_reference
from stages.training.update import Updates

log = logging.getLogger(__name__)


@runtime_checkable
class Tracker(Protocol):
    """What the loop needs of a tracker."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """The seed, where and how often progress is kept, and where what the reference gave is kept for other runs."""

    seed: int
    save_steps: int
    checkpoints: Path
    references: Path


def train(
    algorithm: Algorithm, examples: Sequence[Example], settings: TrainingSettings, schedule: Schedule,
    accelerator: Accelerator, tracker: Tracker, evaluate: Callable[[], dict[str, float]],
) -> None:  # fmt: skip
    """Train `algorithm` in place on `examples`, going on from the last checkpoint where there is one.

    `evaluate` measures on held-out data at step 0, every `eval_steps` steps and at the end.
    Raises NonFiniteError with the batch saved beside the checkpoints.
    """
    examples = algorithm.prepare(examples, schedule.seed)
    steps = total_steps(len(examples), settings)
    meter = Meter(algorithm.policy, accelerator.device, settings.max_tokens, settings.bf16)
    spent = _fill_reference(algorithm, examples, settings, schedule, accelerator, meter)
    updates = Updates(algorithm, settings, steps, accelerator, meter, schedule.checkpoints.parent)
    checkpoints = Checkpoints(schedule.checkpoints, algorithm, updates.optimizer, accelerator)
    start, history = checkpoints.restore()
    updates.go_on_from(start)
    tracker.load_state_dict(history)
    log_evaluation = partial(_log_evaluation, algorithm, evaluate, accelerator, tracker)
    if start:
        log.info("going on from step %d of %d", start, steps)
    else:
        if spent:
            tracker.log(spent, 0)
        log_evaluation(0)
    rank, processes = accelerator.process_index, accelerator.num_processes
    bar = progress(range(start, steps), initial=start, total=steps, unit="step", disable=rank > 0)
    for step in bar:
        done = step + 1
        seed_step(schedule.seed, step, rank)
        batch = step_batch(examples, step, settings, schedule.seed, rank, processes)
        metrics = updates.take(batch, step)
        if done % settings.logging_steps == 0 or done == steps:
            tracker.log(metrics, done)
            bar.set_postfix(_headline(metrics))
        if done == steps or (settings.eval_steps and done % settings.eval_steps == 0):
            with meter.phase("evaluation"):
                log_evaluation(done)
        if done % schedule.save_steps == 0 and done < steps:
            with meter.phase("checkpoint"):
                checkpoints.save(done, tracker.state_dict())
                give_back_freed_memory()
    if rank == 0:
        log.info("%s", meter.summary())


def _fill_reference(
    algorithm: Algorithm, examples: Sequence[Example], settings: TrainingSettings, schedule: Schedule,
    accelerator: Accelerator, meter: Meter,
) -> dict[str, float]:  # fmt: skip
    """What the steps will look up, while the policy still is its own reference; the seconds that it took."""
    if not isinstance(algorithm, WithReference):
        return {}
    with meter.phase("reference"):
        fill_reference(algorithm, examples, settings, schedule.seed, schedule.references, accelerator)
    return {"perf/reference_seconds": meter.total["reference"]}


def _headline(metrics: dict[str, float]) -> dict[str, str]:
    shown = ("train/loss", "train/accuracy", "objective/scores", "objective/kl_k1")
    return {name.split("/")[1]: f"{metrics[name]:.3f}" for name in shown if name in metrics}


def _log_evaluation(
    algorithm: Algorithm, evaluate: Callable[[], dict[str, float]], accelerator: Accelerator, tracker: Tracker,
    step: int,
) -> None:  # fmt: skip
    algorithm.eval()
    with torch.no_grad(), accelerator.autocast():
        metrics = evaluate()
    if metrics:
        tracker.log(metrics, step)
    if metrics and accelerator.is_main_process:
        say(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
