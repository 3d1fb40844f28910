"""What the last run came to, and where to look next: `python -m stages.results`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from stages.evaluation.labels import LABELS, MODELS, Metrics, bounds, number, verdict
from stages.evaluation.overoptimisation import VERDICT
from stages.outcome import Outcome
from stages.statistics.interval import KINDS
from stages.tables import open_console, print_rows
from stages.tracking.settle import settle
from stages.tracking.start import tracking_root
from stages.workspace import SELECTION

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


def result_rows(metrics: Metrics) -> dict[str, dict[str, str]]:
    """Of each metric that was measured, each model's number with its interval."""
    rows: dict[str, dict[str, str]] = {}
    for label in LABELS:
        cells = {name: metrics[name].get(label.key) for name in MODELS}
        if any(cells.values()):
            rows[label.name] = {
                name: f"{number(cell['mean'], label.share)} ({bounds(cell, label.share)})" if cell else ""
                for name, cell in cells.items()
            }
    return rows


def show(metrics: Metrics, found: str | None, console: Console) -> None:
    """Print the table, what the differences say, what evaluate found wrong with the reward, and where to look next."""
    print_rows(console, "Held-out prompts, mean and interval", result_rows(metrics))
    for pair, interval in metrics["paired"].items():
        name, other = pair.split("_minus_")
        console.print(verdict(name, other, interval))
    if found:
        console.print(f"[bold]{found}[/bold]")
    console.print(f"[dim]Intervals: {KINDS}[/dim]")
    console.print("\n[bold]Where to look next[/bold]")
    for name, where, what in NEXT:
        console.print(f"  {name:8} [cyan]{where}[/cyan]  [dim]{what}[/dim]")


def show_kept(folder: Path, console: Console) -> None:
    """Which step each training below `folder` handed on; one that a run did not need has none."""
    for stage in ("sft", "reward_model", "rl"):
        if (folder / stage / SELECTION).exists():
            outcome = Outcome.read(folder / stage / SELECTION)
            console.print(f"{stage}: {outcome.sentence_of_rl() if stage == 'rl' else outcome.sentence()}")


def finding() -> str | None:
    """What evaluate found wrong with the reward; nothing where an older one wrote no such file."""
    path = FOLDER / VERDICT
    return json.loads(path.read_text())["sentence"] if path.exists() else None


def main() -> int:
    """0, or 2 where nothing has been evaluated yet."""
    path = FOLDER / "metrics.json"
    if not path.exists():
        print(f"error: there is no {path}; run `make repro` first", file=sys.stderr)
        return 2
    console = open_console()
    show_kept(FOLDER.parent, console)
    show(json.loads(path.read_text()), finding(), console)
    settle(tracking_root() / ".spool", SETTLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
