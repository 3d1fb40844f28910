"""A sweep's jobs side by side, when it has ended."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from stages.dispatch import JOB
from stages.evaluation.labels import LABELS, bounds, number
from stages.tables import open_console, print_rows
from stages.tracking.provenance import PARENT


class SweepResults(Callback):
    """Hydra calls it when a multirun ends. Ends the process with code 1 where a job has failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir).resolve()
        jobs = {
            path.parent: json.loads(path.read_text()) for path in sorted(folder.rglob(JOB), key=_in_order)
        }
        # an earlier sweep may have written into the same folder
        jobs = {job: told for job, told in jobs.items() if told["sweep"] == os.environ.get(PARENT)}
        console = open_console()
        if done := {job: " ".join(told["overrides"]) for job, told in jobs.items() if not told["failed"]}:
            show(folder, done, console)
        failed = {job: told for job, told in jobs.items() if told["failed"]}
        for job, told in failed.items():
            what = f"in {told['failed']}: {' '.join(told['overrides'])}"
            console.print(f"[red]job {escape(str(job.relative_to(folder)))} failed[/red] {escape(what)}")
        if failed:
            raise SystemExit(1)


def show(folder: Path, jobs: Mapping[Path, str], console: Console) -> None:
    """Print the rl model's means of each job, with the interval of the first metric, and where to look next."""
    means = {job: json.loads((job / "evaluate" / "metrics.json").read_text())["rl"] for job in jobs}
    labels = [label for label in LABELS if all(label.key in row for row in means.values())]
    rows: dict[str, dict[str, str]] = {}
    for job, row in means.items():
        cells = {label.name: number(row[label.key]["mean"], label.share) for label in labels}
        if labels:
            cells[labels[0].name] += f" ({bounds(row[labels[0].key], labels[0].share)})"
        alike = jobs[job] in rows  # values that are the same, or hidden
        rows[f"{jobs[job]} (job {job.name})" if alike else jobs[job]] = cells
    print_rows(console, f"rl of each job, in {folder}", rows)
    console.print("compare them in MLflow: [cyan]make ui[/cyan], the run named sweep and its children")


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Job 2 before job 10, whatever hydra.sweep.subdir calls them."""
    return [(int(digits or 0), text) for digits, text in re.findall(r"(\d*)(\D*)", str(path))]
