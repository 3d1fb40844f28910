"""The training curves of sft, reward_model and rl: joined into one table, and arranged into charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.tracking.curves import read_curves

Points = list[tuple[int, float]]

# What a reader looks at first; the rest is folded away.
FIRST = ("gold_accuracy", "loss", "accuracy", "scores", "kl_k1", "entropy", "length")
PREFIXES = {"train": "training", "eval": "held out", "rollout": "rollouts", "objective": "objective"}


def stage_curves(folders: Mapping[str, Path]) -> dict[str, dict[str, Points]]:
    """The curves of each stage that has any, from its curves.csv."""
    files = {stage: folder / "curves.csv" for stage, folder in folders.items()}
    found = {stage: read_curves(path) for stage, path in files.items() if path.exists()}
    return {stage: curves for stage, curves in found.items() if curves}


def by_step(curves: Mapping[str, Mapping[str, Points]]) -> dict[int, dict[str, float]]:
    """The same points as rows: step -> {`stage/metric`: value}, in the order of the steps."""
    rows: dict[int, dict[str, float]] = {}
    for stage, metrics in curves.items():
        for metric, points in metrics.items():
            for step, value in points:
                rows.setdefault(step, {})[f"{stage}/{metric}"] = value
    return dict(sorted(rows.items()))


def panels(metrics: Mapping[str, Points]) -> dict[str, dict[str, Points]]:
    """Title -> {line: points}: what has the same name in training and held out shares a chart."""
    found: dict[str, dict[str, Points]] = {}
    for metric, points in metrics.items():
        prefix, _, name = metric.partition("/")
        found.setdefault(name, {})[PREFIXES.get(prefix, prefix)] = points
    return {name: found[name] for name in sorted(found, key=importance)}


def importance(name: str) -> tuple[int, str]:
    """FIRST in its order, then the rest by name."""
    return (FIRST.index(name), "") if name in FIRST else (len(FIRST), name)


def split_panels(stage_panels: Mapping[str, dict[str, Points]]) -> tuple[Sequence[str], Sequence[str]]:
    """The titles that are shown at once, and those that are folded away."""
    shown = [name for name in stage_panels if name in FIRST]
    rest = [name for name in stage_panels if name not in FIRST]
    return (shown, rest) if shown else (rest, [])
