"""The metrics of one stage as a wide CSV, the form that `dvc plots` takes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any, ClassVar

# Wall-clock numbers differ between two runs of the same code, and the CSV is part of what DVC hashes:
# the same seed must write the same file. MLflow has them.
WALL_CLOCK = "perf/"
# A metric that was not logged at a step. `dvc plots` draws an empty cell as 0, and leaves this out.
MISSING = "nan"


class Curves:
    """One row per step, one column per metric; a step that is logged twice keeps the later value."""

    wall_clock: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[int, dict[str, float]] = {}

    def write(self, event: dict[str, Any]) -> None:
        """Take a metrics event; other events are not curves."""
        if event["event"] != "metrics":
            return
        metrics = {
            name: value
            for name, value in event["metrics"].items()
            if name.startswith(WALL_CLOCK) == self.wall_clock
        }
        if metrics:
            self._rows.setdefault(event["step"], {}).update(metrics)

    def flush(self) -> None:
        """Write the file, with its `step` column even where nothing was logged."""
        names = sorted({name for row in self._rows.values() for name in row})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *names], restval=MISSING, lineterminator="\n")
            writer.writeheader()
            for step in sorted(self._rows):
                writer.writerow({"step": step, **self._rows[step]})

    def close(self) -> None:
        """Write what is there, if the folder still is: it may have been renamed into its place already."""
        if self.path.parent.is_dir():
            self.flush()


class Timings(Curves):
    """The wall-clock numbers alone, outside of what DVC hashes."""

    wall_clock = True

    def flush(self) -> None:
        """These are of no output: a disk without room for them must not cost the stage's."""
        try:
            super().flush()
        except OSError as error:
            print(f"warning: {self.path} is not written: {error}", file=sys.stderr)


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The points (step, value) of each metric of a curves.csv, in the order of the steps."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value != MISSING:
                    curves.setdefault(name, []).append((step, float(value)))
    return curves
