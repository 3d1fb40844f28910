"""Which step is kept, and when training stops early: from evaluations alone, so that it can be tested by itself and is
the same in every process."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from stages.config.schema import TrainingSettings
from stages.outcome import CONFIDENCE, Outcome
from stages.statistics.interval import Interval
from stages.statistics.paired import paired_difference
from stages.training.evaluation import Criterion, Evaluation

FALLS = 2  # evaluations in a row; many runs fall once, in their first steps, and rise far above it


@dataclass(frozen=True)
class Point:
    """The choosing metric at one step; values and weights as in Evaluation."""

    step: int
    values: list[float]
    weights: list[float]

    @property
    def mean(self) -> float:
        return sum(self.values) / sum(self.weights)

    def minus(self, other: Point) -> Interval:
        """The paired difference of the metric at this step and at another one, over the same examples."""
        return paired_difference(self.values, other.values, self.weights, CONFIDENCE)


class Selection:
    """The first, the best and the last evaluation of a run.

    `keep: last` goes to the end and keeps it: nothing stops it early.
    """

    def __init__(self, criterion: Criterion, settings: TrainingSettings) -> None:
        self.criterion = criterion
        self.keeps_best = settings.keep == "best"
        self.patience = settings.early_stopping_patience
        self.start: Point | None = None
        self.best: Point | None = None
        self.last: Point | None = None
        self.without_improvement = 0  # evaluations in a row
        self.fallen = 0  # evaluations in a row, where a fall stops it
        self.stopped_early: str | None = None  # why

    def update(self, step: int, evaluation: Evaluation) -> bool:
        """Take the evaluation after `step` steps into account; True where the present weights are the best so far and
        to be kept. An evaluation without values changes nothing."""
        if not evaluation.values:
            return False
        self.last = Point(step, list(evaluation.values), list(evaluation.weights))
        self.start = self.start or self.last
        if self.best is None or self._improves(self.last.mean, self.best.mean):
            self.best, self.without_improvement, self.fallen = self.last, 0, 0
            return self.keeps_best
        self.without_improvement += 1
        self.fallen = self.fallen + 1 if self._fell(self.last, self.best) else 0
        if self.keeps_best:
            self.stopped_early = self._reason_to_stop(step)
        return False

    def _improves(self, mean: float, best: float) -> bool:
        """By any amount. A finite mean improves on one that is not; one that is not finite improves on nothing."""
        return isfinite(mean) and (not isfinite(best) or self.criterion.sign * (mean - best) > 0)

    def _fell(self, last: Point, best: Point) -> bool:
        """By more than chance: even the bound that is kindest to the last step is worse than the best."""
        if not self.criterion.stop_at_fall:
            return False
        bound = last.minus(best)["high" if self.criterion.greater_is_better else "low"]
        return bound is not None and self.criterion.sign * bound < 0

    def _reason_to_stop(self, step: int) -> str | None:
        if self.fallen >= FALLS:
            return f"it fell, and had not recovered by step {step}"
        if self.patience is not None and self.without_improvement >= self.patience:
            return f"no better in {self.without_improvement} evaluations, by step {step}"
        return None

    @property
    def best_step(self) -> int | None:
        """The step whose weights are on disk as the best so far; None with `keep: last` and before any evaluation."""
        return self.best.step if self.best and self.keeps_best else None

    def outcome(self, last_step: int, total_steps: int) -> Outcome:
        """What the run came to, once it has ended after `last_step` of `total_steps` steps."""
        criterion, start = self.criterion, self.start
        kept = self.best if self.keeps_best else self.last
        if kept is None or start is None:
            return Outcome(kept_step=last_step, last_step=last_step, total_steps=total_steps)
        return Outcome(
            metric=criterion.metric,
            direction="maximize" if criterion.greater_is_better else "minimize",
            kept_step=kept.step, last_step=last_step, total_steps=total_steps, stopped_early=self.stopped_early,
            value=kept.mean, start_value=start.mean,
            difference=kept.minus(start) if kept.step != start.step else None,
            n=len(kept.values),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, ready for JSON: all that later evaluations are compared with. `best_step` names the weights
        that BestWeights keeps for it."""
        return {
            "start": self.start and asdict(self.start),
            "best": self.best and asdict(self.best),
            "without_improvement": self.without_improvement,
            "fallen": self.fallen,
            "best_step": self.best_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. The last evaluation is not in it: the run makes one more at its end."""
        self.start, self.best = (state[name] and Point(**state[name]) for name in ("start", "best"))
        self.without_improvement, self.fallen = state["without_improvement"], state["fallen"]
