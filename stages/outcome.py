"""What a training came to: which step was kept, by which number, and whether that is better than where it began."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from stages.statistics.interval import Interval

CONFIDENCE = 0.95  # of the paired intervals, as a share of 1
SHARES = ("eval/gold_accuracy",)  # metrics that are shown in per cent


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The content of selection.json, values in the metric's unit. No metric: nothing was held out to choose by."""

    metric: str | None = None
    direction: str | None = None  # maximize | minimize
    kept_step: int
    last_step: int
    total_steps: int
    stopped_early: str | None = None  # why, in words
    value: float | None = None  # at the kept step
    start_value: float | None = None  # at step 0
    difference: Interval | None = None  # value less start_value, paired; None where step 0 is kept
    n: int = 0  # held-out examples, or blocks of them, that the pairs are of

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """Raises OSError, ValueError or TypeError where `path` is no selection.json."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """As JSON, which knows no NaN and no infinity: they become null."""
        path.write_text(json.dumps(_without_nan(asdict(self)), indent=2) + "\n")

    @property
    def better(self) -> bool:
        """Whether the interval of the difference to step 0 lies on the better side of 0."""
        if self.difference is None:
            return False
        low, high = self.difference["low"], self.difference["high"]
        return (
            low is not None and high is not None and (low > 0 if self.direction == "maximize" else high < 0)
        )

    def sentence(self) -> str:
        """One line for the log: which step was kept, by which number, and how that compares with step 0."""
        kept = f"kept step {self.kept_step} of {self.total_steps}"
        if self.metric is None or self.value is None:
            return f"{kept}: nothing is held out to choose by"
        text = f"{kept}: {self.metric} {self._shown(self.value)}{' %' if self._is_share else ''}"
        text += f" ({self._change()})" if self.difference else ", where it began"
        return f"{text}; stopped early: {self.stopped_early}" if self.stopped_early else text

    def sentence_of_rl(self) -> str:
        """The same, and that it is not shown to be better than the sft model, step 0 of rl, where it is not."""
        return (
            self.sentence()
            if self.better
            else f"{self.sentence()}. Not shown to be better than the sft model"
        )

    def doubt(self) -> str:
        """For an outcome that is not `better`: why the kept step is not shown to be better than step 0."""
        if self.metric is None:
            return "nothing was measured on held-out data"
        if self.difference is None:
            return f"no step has a better {self.metric} than step 0"
        if self.difference["low"] is None or self.difference["high"] is None:
            return f"{self.metric}, {self._change()}, has no interval on {self.n} held-out examples"
        return f"{self.metric}, {self._change()}"

    def _change(self) -> str:
        assert self.difference is not None
        low, high = self.difference["low"], self.difference["high"]
        text = f"{self._shown(self.difference['mean'], '+')} to step 0"
        if low is None or high is None:
            return text
        return f"{text}, paired {CONFIDENCE * 100:.0f} % interval {self._shown(low)} to {self._shown(high)}"

    @property
    def _is_share(self) -> bool:
        return self.metric in SHARES

    def _shown(self, value: float, sign: str = "") -> str:
        return f"{100 * value:{sign}.1f}" if self._is_share else f"{value:{sign}.3f}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
