"""What the last run came to, and where to look next: `python -m stages.results`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stages.evaluation.interval import KINDS
from stages.evaluation.labels import LABELS, bounds, number, verdict
from stages.evaluation.metrics import MODELS, Metrics
from stages.tracking.settle import settle
from stages.tracking.start import tracking_root

WIDTH = 110  # of the table: narrower, it would break every interval
SETTLE = 10.0  # seconds for what the stages' senders still do
FOLDER = Path(__file__).resolve().parents[1] / "data" / "evaluate"
NEXT = (
    (
        "metrics",
        ".venv/bin/dvc metrics show data/evaluate/metrics.json --md",
        "once committed: `.venv/bin/dvc metrics diff`",
    ),
    ("curves", ".venv/bin/dvc plots show --open", "needs the network; the report has the same curves"),
    ("report", "data/evaluate/report.html", "one page: numbers, curves, samples side by side"),
    ("samples", "data/evaluate/samples.md", ""),
    ("MLflow", "make ui", "every run with its values and metrics"),
)


def results_table(metrics: Metrics) -> Table:
    """A row per metric, a column per model, each number with its interval."""
    table = Table(title="Held-out prompts, mean and interval", title_justify="left", title_style="bold")
    table.add_column("")
    for name in MODELS:
        table.add_column(name, justify="right")
    for label in LABELS:
        cells = [metrics[name].get(label.key) for name in MODELS]
        if any(cells):
            texts = [
                f"{number(c['mean'], label.share)} [dim]({bounds(c, label.share)})[/dim]" if c else ""
                for c in cells
            ]
            table.add_row(label.name, *texts)
    return table


def show(metrics: Metrics, console: Console) -> None:
    """Print the table, what the differences say, and where to look next."""
    console.print(results_table(metrics))
    for pair, interval in metrics["paired"].items():
        name, other = pair.split("_minus_")
        console.print(verdict(name, other, interval))
    console.print(f"[dim]Intervals: {KINDS}[/dim]")
    console.print("\n[bold]Where to look next[/bold]")
    for name, where, what in NEXT:
        console.print(f"  {name:8} [cyan]{where}[/cyan]  [dim]{what}[/dim]")


def main() -> int:
    """0, or 2 where nothing has been evaluated yet."""
    path = FOLDER / "metrics.json"
    if not path.exists():
        print(f"error: there is no {path}; run `make repro` first", file=sys.stderr)
        return 2
    console = Console()
    console.width = max(console.width, WIDTH)
    show(json.loads(path.read_text()), console)
    settle(tracking_root() / ".spool", SETTLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
