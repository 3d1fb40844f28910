"""Which of its checkpoints a stage has handed on, and why: its selection.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from stages.evaluation.labels import bounds, number
from stages.statistics.interval import Interval

FILE = "selection.json"


class Selection(NamedTuple):
    """The kept step, by a metric on `n` held-out rows, and how it differs from where the stage started."""

    metric: str
    kept_step: int
    last_step: int
    total_steps: int
    stopped_early: bool
    value: float | None
    start_value: float | None
    difference: Interval | None  # paired, kept less start
    n: int | None

    @property
    def share(self) -> bool:
        return self.metric.endswith("accuracy")

    @property
    def better(self) -> bool:
        """Whether a higher metric than at the start is shown, and not only seen."""
        return bool(self.difference and (self.difference["low"] or 0) > 0)

    def sentence(self) -> str:
        """Of rl, in words."""
        name = self.metric.partition("/")[2].replace("_", " ") or self.metric
        found = ""
        if self.value is not None and self.start_value is not None:
            start, kept = (number(value, self.share) for value in (self.start_value, self.value))
            rows = f" on {self.n} held-out prompts" if self.n else ""
            found = f": {name} {kept}, after {start} at the start{rows}"
        early = f"; training stopped at step {self.last_step}" if self.stopped_early else ""
        text = f"rl keeps step {self.kept_step} of {self.total_steps}{found}{early}."
        if self.kept_step == 0:
            return f"{text} That is the sft model, unchanged."
        if self.better or self.difference is None:
            return text
        return f"{text} It is not shown to be better than sft (difference {bounds(self.difference, self.share)})."


def read_selection(folder: Path) -> Selection | None:
    """None where the stage wrote none. Raises KeyError, TypeError or ValueError where it cannot be read."""
    path = folder / FILE
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return Selection(**{name: values[name] for name in Selection._fields})
