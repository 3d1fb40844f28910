"""A batch's experience, one optimizer step per minibatch of it, and the metrics of both."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator

from stages.algorithms.base import Algorithm
from stages.algorithms.batch import Batch
from stages.config.schema import TrainingSettings
from stages.data.examples import write_examples
from stages.distributed import sum_over_ranks
from stages.training.meter import Meter
from stages.training.optimizer import make_optimizer, make_scheduler
from stages.training.step import NonFiniteError, StepResult, optimizer_step


class Updates:
    """The optimizer of one run and its schedule over `steps` batches. `folder` takes the examples of a batch that
    could not be trained on."""

    def __init__(
        self, algorithm: Algorithm, settings: TrainingSettings, steps: int, accelerator: Accelerator,
        meter: Meter, folder: Path,
    ) -> None:  # fmt: skip
        self.algorithm = algorithm
        self.settings = settings
        self.accelerator = accelerator
        self.meter = meter
        self.folder = folder
        optimizer = make_optimizer(algorithm, settings)
        self.scheduler = make_scheduler(optimizer, settings, steps)
        self.module, self.optimizer = accelerator.prepare(algorithm, optimizer)

    def go_on_from(self, step: int) -> None:
        """The schedule is a function of how many steps were taken."""
        with warnings.catch_warnings():
            # torch wants a step of the optimizer before: those were the killed run's
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(step):
                self.scheduler.step()

    def take(self, batch: Batch, step: int) -> dict[str, float]:
        """Train on one batch; returns its metrics. Raises NonFiniteError with the examples saved."""
        rate = float(self.scheduler.get_last_lr()[0])
        self.module.eval()  # as it is at first, after the held-out data: a compiled layer is compiled once for it
        with self.meter.phase("experience"), torch.no_grad(), self.accelerator.autocast():
            experience = list(self.algorithm.experience(batch))
        self.module.train()
        results = [self._optimize(minibatch, step) for minibatch in experience]
        self.scheduler.step()
        return _means(results) | self._observed() | {"train/learning_rate": rate} | self.meter.step()

    def _optimize(self, minibatch: Batch, step: int) -> StepResult:
        limits = self.settings.max_tokens, self.settings.max_grad_norm
        self.meter.count(minibatch)
        try:
            with self.meter.phase("training"):
                return optimizer_step(self.accelerator, self.module, self.optimizer, minibatch, *limits)
        except NonFiniteError as error:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"nonfinite-step-{step}-rank-{self.accelerator.process_index}.jsonl"
            write_examples(path, minibatch.seen())
            raise NonFiniteError(f"step {step}: {error}; its examples are in {path}") from error

    def _observed(self) -> dict[str, float]:
        """Means of what the algorithm observed on every rank, NaN where that is nothing."""
        means = {}
        for name, parts in sorted(self.algorithm.observed.items()):
            values = torch.cat([part.to(self.accelerator.device) for part in parts])
            known = ~values.isnan()
            sums = torch.stack([values[known].sum().double(), known.sum().double()])
            total, count = sum_over_ranks(sums).tolist()
            means[name] = total / count if count else math.nan
        self.algorithm.observed.clear()
        return means


def _means(results: list[StepResult]) -> dict[str, float]:
    """Over all units of the step."""
    weight = sum(result.weight for result in results)
    names = sorted({name for result in results for name in result.metrics})
    means = {name: sum(result.metrics[name] for result in results) / weight for name in names}
    means["train/loss"] = sum(result.loss for result in results) / weight
    means["train/grad_norm"] = sum(result.grad_norm for result in results) / len(results)
    return means
