"""The one training loop. It knows no algorithm's name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from stages.algorithms.base import Algorithm, WithReference
from stages.config.schema import TrainingSettings
from stages.data.examples import Example
from stages.heap import give_back_freed_memory
from stages.outcome import Outcome
from stages.progress import progress
from stages.training.best import BestWeights
from stages.training.checkpoints import Checkpoints, Story
from stages.training.evaluation import HeldOut
from stages.training.evaluator import Evaluator
from stages.training.meter import Meter
from stages.training.order import eval_interval, seed_step, step_batch, total_steps
from stages.training.reference import fill_reference
from stages.training.selection import Selection
from stages.training.tracker import Tracker
from stages.training.update import Updates

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """The seed, where and how often progress is kept, and where what the reference gave is kept for other runs."""

    seed: int
    save_steps: int
    checkpoints: Path
    references: Path


def train(
    algorithm: Algorithm, examples: Sequence[Example], settings: TrainingSettings, schedule: Schedule,
    accelerator: Accelerator, tracker: Tracker, held_out: HeldOut,
) -> Outcome:  # fmt: skip
    """Train `algorithm` in place on `examples`, going on from the last checkpoint where there is one; at the end it has
    the weights of the step that is kept.

    It is measured on held-out data at step 0, every `eval_steps` steps and at the end.
    Raises NonFiniteError with the batch saved beside the checkpoints.
    """
    examples = algorithm.prepare(examples, schedule.seed)
    steps = total_steps(len(examples), settings)
    meter = Meter(algorithm.policy, accelerator.device, settings.max_tokens, settings.bf16)
    spent = _fill_reference(algorithm, examples, held_out, settings, schedule, accelerator, meter)
    updates = Updates(algorithm, settings, steps, accelerator, meter, schedule.checkpoints.parent)
    best = BestWeights(schedule.checkpoints, algorithm, accelerator)
    checkpoints = Checkpoints(schedule.checkpoints, algorithm, updates.optimizer, best, accelerator)
    selection = Selection(held_out.criterion, settings)
    evaluate = Evaluator(algorithm, held_out, selection, best, checkpoints, tracker, accelerator)
    done = _go_on(checkpoints, updates, tracker, selection, steps)
    if not done:
        if spent:
            tracker.log(spent, 0)
        evaluate(0)
    rank, processes = accelerator.process_index, accelerator.num_processes
    every = eval_interval(steps, settings)
    bar = progress(range(done, steps), initial=done, total=steps, unit="step", disable=rank > 0)
    for step in bar:
        done = step + 1
        seed_step(schedule.seed, step, rank)
        batch = step_batch(examples, step, settings, schedule.seed, rank, processes)
        metrics = updates.take(batch, step)
        if done % settings.logging_steps == 0 or done == steps:
            tracker.log(metrics, done)
            bar.set_postfix(_headline(metrics))
        if done == steps or (every and done % every == 0):
            with meter.phase("evaluation"):
                evaluate(done)
        if selection.stopped_early:
            bar.close()
            break
        if done % schedule.save_steps == 0 and done < steps:
            with meter.phase("checkpoint"):
                checkpoints.save(Story(done, tracker.state_dict(), selection.state_dict()))
                give_back_freed_memory()
    if rank == 0:
        log.info("%s", meter.summary())
    outcome = selection.outcome(done, steps)
    if outcome.kept_step != done:
        best.load(outcome.kept_step)
    return outcome


def _go_on(
    checkpoints: Checkpoints, updates: Updates, tracker: Tracker, selection: Selection, steps: int
) -> int:
    """From the last checkpoint; returns the steps that it has seen, 0 where there is none."""
    story = checkpoints.restore()
    if story is None:
        return 0
    updates.go_on_from(story.step)
    tracker.load_state_dict(story.tracker)
    selection.load_state_dict(story.selection)
    log.info("going on from step %d of %d", story.step, steps)
    return story.step


def _fill_reference(
    algorithm: Algorithm, examples: Sequence[Example], held_out: HeldOut, settings: TrainingSettings,
    schedule: Schedule, accelerator: Accelerator, meter: Meter,
) -> dict[str, float]:  # fmt: skip
    """What the steps will look up, while the policy still is its own reference; the seconds that it took."""
    if not isinstance(algorithm, WithReference):
        return {}
    with meter.phase("reference"):
        fill_reference(
            algorithm, examples, held_out.examples, settings, schedule.seed, schedule.references, accelerator
        )
    return {"perf/reference_seconds": meter.total["reference"]}


def _headline(metrics: dict[str, float]) -> dict[str, str]:
    shown = ("train/loss", "train/accuracy", "objective/scores", "objective/kl_k1")
    return {name.split("/")[1]: f"{metrics[name]:.3f}" for name in shown if name in metrics}
