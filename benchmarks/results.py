"""Where results are written, and how they are drawn."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from stages.machine import multiplies_in_bf16

RESULTS = Path(__file__).resolve().parent / "results"
Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One diagram: lines by name."""

    x: str
    y: str
    lines: Mapping[str, Points]
    log_x: bool = False


def results_path(ending: str) -> Path:
    """`<date>-<hardware><ending>`."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{date.today()}-{hardware()}{ending}"


def commit() -> str:
    """Of what is measured: a hash, with -dirty where code differs from it; empty outside a checkout."""
    code = ["stages", "conf", "benchmarks", ":!benchmarks/results"]
    found = _git("rev-parse", "--short", "HEAD")
    return f"{found}-dirty" if found and _git("status", "--porcelain", "--", *code) else found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(RESULTS.parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def hardware() -> str:
    """A short name of this machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().replace(" ", "-")
    cores, kind = len(os.sched_getaffinity(0)), torch.backends.cpu.get_cpu_capability()
    return f"{cores}-core-{platform.machine()}-{kind.lower()}" + ("-bf16" if multiplies_in_bf16() else "")


def save(name: str, numbers: Any, panels: Sequence[Panel]) -> Path:
    """The numbers as JSON and the panels side by side as PNG; returns the picture's path."""
    results_path(f"-{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    picture = results_path(f"-{name}.png")
    draw(panels, name, picture)
    return picture


def draw(panels: Sequence[Panel], title: str, path: Path) -> None:
    """One row of diagrams."""
    import matplotlib.pyplot as plt  # slow to import, and a process that only measures draws nothing

    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for name, (x, y) in panel.lines.items():
            axis.plot(x, y, label=name, marker=".")
        axis.set(xlabel=panel.x, ylabel=panel.y, xscale="log" if panel.log_x else "linear")
        axis.legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
