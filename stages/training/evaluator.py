"""The evaluations of one run: measured, logged, compared, and the best weights kept."""

from __future__ import annotations

from dataclasses import replace

import torch
from accelerate import Accelerator

from stages.algorithms.base import Algorithm
from stages.distributed import sum_over_ranks
from stages.progress import say
from stages.training.best import BestWeights
from stages.training.checkpoints import Checkpoints
from stages.training.evaluation import Evaluation, HeldOut
from stages.training.selection import Selection
from stages.training.tracker import Tracker


class Evaluator:
    """Every process measures, and all of them go by the numbers of the main one: so they take the same decisions."""

    def __init__(
        self, algorithm: Algorithm, held_out: HeldOut, selection: Selection, best: BestWeights,
        checkpoints: Checkpoints, tracker: Tracker, accelerator: Accelerator,
    ) -> None:  # fmt: skip
        self.algorithm, self.held_out = algorithm, held_out
        self.selection, self.best, self.checkpoints = selection, best, checkpoints
        self.tracker, self.accelerator = tracker, accelerator

    def __call__(self, step: int) -> None:
        """Evaluate the weights after `step` steps."""
        evaluation = self._measure()
        metrics = evaluation.metrics
        if metrics:
            self.tracker.log(metrics, step)
        if metrics and self.accelerator.is_main_process:
            say(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        if self.selection.update(step, evaluation):
            self.best.save(step, self.checkpoints.best_steps)

    def _measure(self) -> Evaluation:
        self.algorithm.eval()
        with torch.no_grad(), self.accelerator.autocast():
            evaluation = self.held_out.evaluate()
        self.algorithm.observed.clear()  # what was observed of held-out data is none of a step's
        values = torch.tensor(
            [*evaluation.values, *evaluation.weights], dtype=torch.float64, device=self.accelerator.device
        )
        if not self.accelerator.is_main_process:
            values = torch.zeros_like(values)
        agreed = sum_over_ranks(values).tolist()
        count = len(evaluation.values)
        return replace(evaluation, values=agreed[:count], weights=agreed[count:])
