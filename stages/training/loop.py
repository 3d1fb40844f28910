"""The one training loop. It knows no algorithm's name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from tqdm import tqdm

from stages.algorithms.base import Algorithm, WithReference
from stages.algorithms.batch import Batch
from stages.config.schema import TrainingSettings
from stages.data.examples import Example, write_examples
from stages.distributed import sum_over_ranks
from stages.heap import give_back_freed_memory
from stages.training.checkpoints import Checkpoints
from stages.training.meter import Meter
from stages.training.optimizer import make_optimizer, make_scheduler
from stages.training.order import seed_step, step_batch, total_steps
from stages.training.reference import fill_reference
from stages.training.step import NonFiniteError, StepResult, optimizer_step

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
    steps = total_steps(len(examples), settings)
    meter = Meter(algorithm.policy, accelerator.device, settings.max_tokens, settings.bf16)
    spent = _fill_reference(algorithm, examples, settings, schedule, accelerator, meter)
    optimizer = make_optimizer(algorithm, settings)
    scheduler = make_scheduler(optimizer, settings, steps)
    module, optimizer = accelerator.prepare(algorithm, optimizer)
    accelerator.register_for_checkpointing(scheduler)
    checkpoints = Checkpoints(schedule.checkpoints, accelerator)
    start, history = checkpoints.restore()
    tracker.load_state_dict(history)
    if start:
        log.info("going on from step %d of %d", start, steps)
    else:
        if spent:
            tracker.log(spent, 0)
        _evaluate(algorithm, evaluate, tracker, 0, accelerator)
    silent, rank = not accelerator.is_main_process, accelerator.process_index
    progress = tqdm(range(start, steps), initial=start, total=steps, unit="step", disable=silent)
    for step in progress:
        seed_step(schedule.seed, step, rank)
        batch = step_batch(examples, step, settings, schedule.seed, rank, accelerator.num_processes)
        rate = float(scheduler.get_last_lr()[0])
        results = _update(accelerator, module, algorithm, optimizer, batch, settings, schedule, meter, step)
        scheduler.step()
        metrics = _metrics(results, algorithm, accelerator.device) | {"train/learning_rate": rate}
        metrics |= meter.step()
        if (step + 1) % settings.logging_steps == 0 or step + 1 == steps:
            tracker.log(metrics, step + 1)
            progress.set_postfix(_headline(metrics))
        if step + 1 == steps or (settings.eval_steps and (step + 1) % settings.eval_steps == 0):
            with meter.phase("evaluation"):
                _evaluate(algorithm, evaluate, tracker, step + 1, accelerator)
        if (step + 1) % schedule.save_steps == 0 and step + 1 < steps:
            with meter.phase("checkpoint"):
                checkpoints.save(step + 1, tracker.state_dict())
                give_back_freed_memory()
    if not silent:
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


def _update(
    accelerator: Accelerator, module, algorithm: Algorithm, optimizer, batch: Batch, settings: TrainingSettings,
    schedule: Schedule, meter: Meter, step: int,
) -> list[StepResult]:  # fmt: skip
    """One optimizer step per minibatch of the batch's experience."""
    results = []
    with meter.phase("experience"), torch.no_grad(), accelerator.autocast():
        experience = list(algorithm.experience(batch))
    module.train()
    for minibatch in experience:
        meter.count(minibatch)
        try:
            with meter.phase("training"):
                results.append(
                    optimizer_step(
                        accelerator, module, optimizer, minibatch, settings.max_tokens, settings.max_grad_norm
                    )
                )
        except NonFiniteError as error:
            schedule.checkpoints.mkdir(parents=True, exist_ok=True)
            path = (
                schedule.checkpoints.parent / f"nonfinite-step-{step}-rank-{accelerator.process_index}.jsonl"
            )
            write_examples(path, minibatch.seen())
            raise NonFiniteError(f"step {step}: {error}; its examples are in {path}") from error
    return results


def _metrics(results: list[StepResult], algorithm: Algorithm, device: torch.device) -> dict[str, float]:
    """Means over all units of the step, and of what the algorithm observed on every rank."""
    weight = sum(result.weight for result in results)
    names = sorted({name for result in results for name in result.metrics})
    metrics = {name: sum(result.metrics[name] for result in results) / weight for name in names}
    metrics["train/loss"] = sum(result.loss for result in results) / weight
    metrics["train/grad_norm"] = sum(result.grad_norm for result in results) / len(results)
    for name, parts in sorted(algorithm.observed.items()):
        values = torch.cat([part.to(device) for part in parts])
        known = ~values.isnan()
        total, count = sum_over_ranks(
            torch.stack([values[known].sum().double(), known.sum().double()])
        ).tolist()
        metrics[name] = total / count if count else math.nan
    algorithm.observed.clear()
    return metrics


def _headline(metrics: dict[str, float]) -> dict[str, str]:
    shown = ("train/loss", "train/accuracy", "objective/scores", "objective/kl_k1")
    return {name.split("/")[1]: f"{metrics[name]:.3f}" for name in shown if name in metrics}


def _evaluate(
    algorithm: Algorithm,
    evaluate: Callable[[], dict[str, float]],
    tracker: Tracker,
    step: int,
    accelerator: Accelerator,
) -> None:
    algorithm.eval()
    with torch.no_grad(), accelerator.autocast():
        metrics = evaluate()
    if metrics:
        tracker.log(metrics, step)
    if metrics and accelerator.is_main_process:
        tqdm.write(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
