"""A sweep's jobs side by side, when it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.dispatch import JOB
from stages.evaluation.labels import LABELS, bounds, number
from stages.results import WIDTH


class SweepResults(Callback):
    """Hydra calls it when a multirun ends. Ends the process with code 1 where a job has failed."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder, console = Path(config.hydra.sweep.dir).resolve(), Console()
        console.width = max(console.width, WIDTH)
        jobs = {path.parent: json.loads(path.read_text()) for path in folder.glob(f"*/{JOB}")}
        jobs = dict(sorted(jobs.items(), key=lambda item: int(item[0].name)))
        done = {job: " ".join(told["overrides"]) for job, told in jobs.items() if not told["failed"]}
        if done:
            console.print(sweep_table(folder, list(done)))
            for job, changed in done.items():
                console.print(f"{job.name}: {escape(changed)}", highlight=False)
            console.print(
                "compare them in MLflow: [cyan]make ui[/cyan], the run named sweep and its children"
            )
        failed = {job: told for job, told in jobs.items() if told["failed"]}
        for job, told in failed.items():
            console.print(
                f"[red]job {job.name} failed[/red] in {told['failed']}: {escape(' '.join(told['overrides']))}"
            )
        if failed:
            raise SystemExit(1)


def sweep_table(folder: Path, jobs: list[Path]) -> Table:
    """A row per job with the rl model's means, and the interval of the first metric."""
    rows = {job: json.loads((job / "evaluate" / "metrics.json").read_text())["rl"] for job in jobs}
    labels = [label for label in LABELS if all(label.key in row for row in rows.values())]
    title = f"rl of each job, in {escape(str(folder))}"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("job")
    for label in labels:  # a head takes as many lines as it has words: a number that is cut is none
        table.add_column(label.name.replace(" ", "\n"), justify="right", no_wrap=True)
    for job, row in rows.items():
        means = [number(row[label.key]["mean"], label.share) for label in labels]
        means[0] += f" [dim]({bounds(row[labels[0].key], labels[0].share)})[/dim]"
        table.add_row(job.name, *means)
    return table
