"""What held-out data say of the weights as they are, and which of their numbers chooses the step that is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stages.data.examples import Example


@dataclass(frozen=True)
class Evaluation:
    """metrics: by name, `eval/...`. values: of the metric that chooses, a sum per example (or per block of examples)
    over its units, and weights the units: the metric is `sum(values) / sum(weights)`. Without values there is nothing
    to choose by."""

    metrics: dict[str, float] = field(default_factory=dict)
    values: Sequence[float] = ()
    weights: Sequence[float] = ()


@dataclass(frozen=True)
class Criterion:
    """metric and greater_is_better: transformers' metric_for_best_model and greater_is_better. stop_at_fall: whether
    training stops where the metric is worse than at its best by more than chance, whatever the patience."""

    metric: str
    greater_is_better: bool
    stop_at_fall: bool

    @property
    def sign(self) -> int:
        """Times which a difference is an improvement where it is above 0."""
        return 1 if self.greater_is_better else -1


LOSS = Criterion("eval/loss", greater_is_better=False, stop_at_fall=False)


@dataclass(frozen=True)
class HeldOut:
    """How training is measured on data that it does not see. examples: those that an algorithm with a reference scores
    there, and whose reference has to be known."""

    criterion: Criterion
    evaluate: Callable[[], Evaluation]
    examples: Sequence[Example] = ()
