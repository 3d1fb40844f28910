"""What held-out data say of the weights as they are, and which of their numbers chooses the step that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stages.data.examples import Example


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. The metric that chooses is `sum(values) / sum(weights)`; without values, nothing does."""

    metrics: dict[str, float] = field(default_factory=dict)  # by name, `eval/...`
    # of the metric that chooses: per example, or block of examples, a sum over its units
    values: Sequence[float] = ()
    weights: Sequence[float] = ()  # units of each: 1 per answer, tokens or pairs per block


@dataclass(frozen=True)
class Criterion:
    """Which metric chooses the step that is kept: transformers' metric_for_best_model and greater_is_better."""

    metric: str
    greater_is_better: bool
    stop_at_fall: bool  # where it stays below its best by more than chance, whatever the patience

    @property
    def sign(self) -> int:
        """1 or -1: a difference times it is above 0 where the metric improves."""
        return 1 if self.greater_is_better else -1


LOSS = Criterion("eval/loss", greater_is_better=False, stop_at_fall=False)


@dataclass(frozen=True)
class HeldOut:
    """How training is measured on data that it does not see."""

    criterion: Criterion
    evaluate: Callable[[], Evaluation]
    examples: Sequence[Example] = ()  # that `evaluate` asks an algorithm's reference for
