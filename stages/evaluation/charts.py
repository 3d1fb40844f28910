"""The report's charts, as SVG to put into the page: text stays text, and equal numbers give equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.statistics.interval import Interval

Points = Sequence[tuple[int, float]]

COLORS = {"base": "#8a94a6", "sft": "#2f6fde", "rl": "#0b8a6a"}
LINES = ["#2f6fde", "#d9822b", "#0b8a6a", "#8a5cd1"]
INK, GRID = "#5b6472", "#e4e8ee"
MOST_POINTS = 400  # of a line: more cannot be seen at this size
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9, "text.color": INK, "axes.edgecolor": GRID, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True,
    "legend.frameon": False,
}  # fmt: skip


def interval_chart(
    intervals: Mapping[str, Interval], share: bool, colors: Mapping[str, str] = COLORS, width: float = 6.2
) -> str:
    """One line per model, or by another name: a dot at the mean, a bar over the interval. `width` is in inches."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "intervals"}):
        figure = Figure(figsize=(width, 0.5 + 0.52 * len(intervals)), layout="constrained")
        axes = figure.add_subplot()
        scale = 100 if share else 1
        for row, (name, interval) in enumerate(intervals.items()):
            mean, low, high = scale * interval["mean"], interval["low"], interval["high"]
            if low is not None and high is not None:
                ends = [scale * low, scale * high]
                axes.plot(ends, [row, row], color=colors[name], lw=7, alpha=0.28, solid_capstyle="round")
            axes.plot([mean], [row], "o", color=colors[name], ms=9)
            axes.annotate(
                f"{mean:.1f}" if share else f"{mean:.2f}", (mean, row), (0, 9), textcoords="offset points",
                ha="center", color=colors[name], weight="bold",
            )  # fmt: skip
        axes.set_yticks(range(len(intervals)), list(intervals))
        axes.set_ylim(len(intervals) - 0.5, -0.75)
        axes.tick_params(length=0)
        axes.grid(visible=False, axis="y")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.margins(x=0.08)
        if share:
            axes.xaxis.set_major_formatter("{x:g} %")
        return to_svg(figure)


def curve_chart(title: str, lines: Mapping[str, Points]) -> str:
    """Lines over the optimizer's steps; a long one is drawn faint, with its moving mean over it."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(3.3, 2.1), layout="constrained")
        axes = figure.add_subplot()
        for color, (name, points) in zip(LINES * len(lines), lines.items(), strict=False):
            draw_line(axes, name, thin(points), color)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)
        if len(lines) > 1:
            axes.legend(loc="best", fontsize=8, handlelength=1.2)
        return to_svg(figure)


def draw_line(axes: Axes, name: str, points: Points, color: str) -> None:
    """A curve of few points shows each of them."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    if len(points) < 30:
        axes.plot(steps, values, color=color, lw=1.6, marker="o", ms=3, label=name)
        return
    axes.plot(steps, values, color=color, lw=0.8, alpha=0.3)
    axes.plot(steps, smooth(values, len(values) // 12), color=color, lw=1.8, label=name)


def thin(points: Points) -> Points:
    """At most MOST_POINTS of them, evenly, the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(i)] for i in np.linspace(0, len(points) - 1, MOST_POINTS)]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """The centred moving mean over `reach` neighbours on each side, fewer at the ends."""
    return [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]


def to_svg(figure: Figure) -> str:
    """The `<svg>` element alone, without matplotlib's metadata, scaling with the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    start = svg.index("<svg")
    head, body = svg[start:].split(">", 1)
    view_box = head.split('viewBox="')[1].split('"')[0]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return f'<svg viewBox="{view_box}" role="img">{body}'
