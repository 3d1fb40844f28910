"""The report: one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.evaluation.charts import COLORS, curve_chart, interval_chart
from stages.evaluation.curves import Points, panels, split_panels
from stages.evaluation.labels import LABELS, MODELS, Metrics, bounds, number, verdict
from stages.evaluation.reward_check import RewardCheck
from stages.evaluation.reward_section import reward_section
from stages.evaluation.text import visible
from stages.statistics.interval import KINDS

HEADLINES = ("gold_accuracy", "reward_model_score", "sft_loss")
STAGES = {"sft": "Supervised fine-tuning", "reward_model": "Reward model", "rl": "Reinforcement learning"}


def shown(value: Any) -> Any:
    """A text with what cannot be seen named; the page escapes the rest."""
    return visible(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Report:
    """All that the page shows. `facts`: the header's names and values; `flips`: how rl changed answers."""

    facts: Mapping[str, str]
    metrics: Metrics
    curves: Mapping[str, Mapping[str, Points]]
    samples: Sequence[Mapping[str, Any]]
    flips: Mapping[str, int] | None
    confidence: float
    check: RewardCheck

    def html(self) -> str:
        """The page."""
        folder = Path(__file__).parent
        environment = Environment(
            loader=FileSystemLoader(folder),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html.j2").render(
            facts={name: visible(value) for name, value in self.facts.items()},
            models=MODELS,
            colors=COLORS,
            headline=self._headline(),
            warning=self.check.finding.sentence if self.check.finding else None,
            reward=reward_section(self.metrics, self.curves, self.check),
            rows=self._rows(),
            stages=self._stages(),
            samples=[{key: shown(value) for key, value in row.items()} for row in self.samples],
            flips=self.flips,
            percent=f"{100 * self.confidence:g}",
            kinds=KINDS,
        )

    def _headline(self) -> dict[str, Any]:
        """Accuracy where there is a verifier, else the reward model's score, else the held-out loss; else, where
        models are broken, what is left: a length is always known."""
        present = [label for label in LABELS if all(label.key in self.metrics[name] for name in MODELS)]
        label = min(present, key=lambda label: (*HEADLINES, label.key).index(label.key))
        intervals = {name: self.metrics[name][label.key] for name in MODELS}
        pairs = (("sft", "base"), ("rl", "sft"))
        paired = self.metrics["paired"]
        verdicts = [
            verdict(name, other, paired[f"{name}_minus_{other}"])
            for name, other in pairs
            if f"{name}_minus_{other}" in paired
        ]
        return {
            "label": label,
            "numbers": {
                name: (number(i["mean"], label.share), bounds(i, label.share))
                for name, i in intervals.items()
            },
            "chart": interval_chart(intervals, label.share),
            "verdicts": verdicts,
        }

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for label in LABELS:
            cells = [self.metrics[name].get(label.key) for name in MODELS]
            if any(cells):
                texts = [c and (number(c["mean"], label.share), bounds(c, label.share)) for c in cells]
                rows.append({"label": label, "cells": texts})
        return rows

    def _stages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for stage, title in STAGES.items():
            if stage in self.curves:
                charts = panels(self.curves[stage])
                shown, rest = split_panels(charts)
                draw = {name: curve_chart(f"{stage}/{name}", lines) for name, lines in charts.items()}
                found.append({"title": title, "shown": shown, "rest": rest, "charts": draw})
        return found
