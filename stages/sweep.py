"""A sweep's jobs side by side, when it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from stages.dispatch import JOB
from stages.evaluation.labels import LABELS, bounds, number


class SweepResults(Callback):
    """Hydra calls it when a multirun ends. Ends the process with code 1 where a job has failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder, console = Path(config.hydra.sweep.dir).resolve(), Console()
        jobs = {path.parent: json.loads(path.read_text()) for path in folder.glob(f"*/{JOB}")}
        jobs = dict(sorted(jobs.items(), key=lambda item: int(item[0].name)))
        done = {job: " ".join(told["overrides"]) for job, told in jobs.items() if not told["failed"]}
        if done:
            console.print(sweep_table(folder, done))
            console.print(
                "compare them in MLflow: [cyan]make ui[/cyan], the run named sweep and its children"
            )
        failed = {job: told for job, told in jobs.items() if told["failed"]}
        for job, told in failed.items():
            console.print(
                f"[red]job {job.name} failed[/red] in {told['failed']}: {' '.join(told['overrides'])}"
            )
        if failed:
            raise SystemExit(1)


def sweep_table(folder: Path, jobs: dict[Path, str]) -> Table:
    """A row per job with the rl model's means, and the interval of the first metric."""
    rows = {job: json.loads((job / "evaluate" / "metrics.json").read_text())["rl"] for job in jobs}
    labels = [label for label in LABELS if all(label.key in row for row in rows.values())]
    table = Table(title=f"rl of each job, in {folder}", title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for label in labels:
        table.add_column(label.name, justify="right")
    for job, row in rows.items():
        means = [number(row[label.key]["mean"], label.share) for label in labels]
        means[0] += f" [dim]({bounds(row[labels[0].key], labels[0].share)})[/dim]"
        table.add_row(jobs[job], *means)
    return table
