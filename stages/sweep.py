"""A sweep's jobs side by side, when it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from stages.dispatch import OVERRIDES
from stages.evaluation.labels import LABELS, bounds, number


def sweep_table(folder: Path) -> Table:
    """A row per job that has been evaluated, with the rl model's numbers and intervals."""
    found = {path.parent: json.loads(path.read_text()) for path in folder.glob(f"*/{OVERRIDES}")}
    jobs = {
        job: job / "evaluate" / "metrics.json"
        for job in sorted(found, key=lambda job: (len(job.name), job.name))
    }
    rows = {job: json.loads(path.read_text())["rl"] for job, path in jobs.items() if path.exists()}
    labels = [label for label in LABELS if any(label.key in row for row in rows.values())]
    table = Table(title=f"rl of each job, in {folder}", title_justify="left", title_style="bold")
    for column in ["", *(label.name for label in labels)]:
        table.add_column(column)
    for job, row in rows.items():
        cells = [(row.get(label.key), label.share) for label in labels]
        texts = [
            f"{number(c['mean'], share)} [dim]({bounds(c, share)})[/dim]" if c else "" for c, share in cells
        ]
        table.add_row(" ".join(found[job]), *texts)
    return table


class SweepResults(Callback):
    """Hydra calls it when a multirun ends."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        console = Console()
        console.print(sweep_table(Path(config.hydra.sweep.dir).resolve()))
        console.print("Compare them in MLflow: [cyan]make ui[/cyan], the run named sweep and its children")
