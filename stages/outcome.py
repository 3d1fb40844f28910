"""What a training came to: which step was kept, by which number, and whether that is better than where it began."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from stages.statistics.interval import Interval

CONFIDENCE = 0.95  # of the paired intervals, as a share of 1
SHARES = ("eval/gold_accuracy",)  # shown in per cent


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The content of selection.json. Without a metric nothing was held out to choose by. difference: of the kept step
    to step 0, in the metric's own unit, over the same `n` examples (or blocks of them); None where step 0 is kept."""

    metric: str | None = None
    direction: str | None = None  # maximize | minimize
    kept_step: int
    last_step: int
    total_steps: int
    stopped_early: str | None = None
    value: float | None = None
    start_value: float | None = None
    difference: Interval | None = None
    n: int = 0

    @classmethod
    def read(cls, path: Path) -> Outcome:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """As JSON, which knows no NaN."""
        path.write_text(json.dumps(_finite(asdict(self)), indent=2) + "\n")

    @property
    def better(self) -> bool:
        """Whether the interval to step 0 lies on the better side of 0."""
        if self.difference is None:
            return False
        low, high = self.difference["low"], self.difference["high"]
        return (
            low is not None and high is not None and (low > 0 if self.direction == "maximize" else high < 0)
        )

    def sentence(self) -> str:
        """One line for the log."""
        kept = f"kept step {self.kept_step} of {self.total_steps}"
        if self.metric is None or self.value is None:
            return f"{kept}: nothing is held out to choose by"
        text = f"{kept}: {self.metric} {self._shown(self.value)}{' %' if self._share else ''}"
        text += f" ({self._change()})" if self.difference else ", where it began"
        return f"{text}; stopped early: {self.stopped_early}" if self.stopped_early else text

    def judged(self) -> str:
        """Of rl, whose step 0 is the sft model: the line, and what it leaves open."""
        return (
            self.sentence()
            if self.better
            else f"{self.sentence()}. Not shown to be better than the sft model"
        )

    def doubt(self) -> str:
        """Why nobody can say that the kept step is better than step 0, where it is not `better`."""
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
    def _share(self) -> bool:
        return self.metric in SHARES

    def _shown(self, value: float, sign: str = "") -> str:
        return f"{100 * value:{sign}.1f}" if self._share else f"{value:{sign}.3f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value
