"""What a stage logs. Each call is an event that goes to every sink: the curves and the spool."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

Status = Literal["FINISHED", "FAILED", "KILLED"]
Event = dict[str, Any]


@runtime_checkable
class Sink(Protocol):
    """Takes events one at a time, in order."""

    def write(self, event: Event) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class Tracker:
    """Logs to its sinks; one without sinks (every rank but the first) takes the calls and keeps nothing."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = sinks
        self._history: list[Event] = []
        self._finished = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log scalars (numbers or one-element tensors) at a step; names are `train/…`, `rollout/…`,
        `objective/…`, `eval/…` or `perf/…`."""
        values = {name: float(value) for name, value in metrics.items()}
        event = self._event("metrics", step=int(step), metrics=values)
        self._write(event)
        if self._sinks:
            self._history.append(event)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log final numbers, which are no curve: MLflow has them, curves.csv has not."""
        values = {name: float(value) for name, value in metrics.items()}
        self._write(self._event("summary", step=0, metrics=values))

    def log_dataset(self, name: str, digest: str, rows: int) -> None:
        """Log what the run was fed with: the digest is that of the rows' content."""
        self._write(self._event("dataset", name=name, digest=digest, rows=int(rows)))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table of plain values, one mapping per row; its columns are all keys that occur. `<name>.json`."""
        self._write(self._event("table", name=name, rows=[dict(row) for row in rows]))

    def log_artifact(self, path: Path) -> None:
        """Log a file or a folder. It is copied at once, so the caller may move it afterwards."""
        self._write(self._event("artifact", path=str(path)))

    def flush(self) -> None:
        """Write curves.csv into the output folder as it stands now."""
        for sink in self._sinks:
            sink.flush()

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run and write curves.csv, before the output folder moves. Later calls do nothing."""
        if self._finished:
            return
        self._finished = True
        self._write(self._event("finish", status=status))
        for sink in self._sinks:
            sink.close()

    def state_dict(self) -> dict[str, Any]:
        """Every metric so far, for a checkpoint."""
        return {"metrics": list(self._history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Log again what a killed run had logged before its checkpoint, at its original times, so that the
        curves of a resumed run are whole."""
        for event in state["metrics"]:
            self._write(event)
        if self._sinks:
            self._history = [*state["metrics"], *self._history]

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"event": kind, "time": int(time.time() * 1000), **fields}

    def _write(self, event: Event) -> None:
        for sink in self._sinks:
            sink.write(event)
