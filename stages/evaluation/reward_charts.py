"""The charts that hold the learned reward against the verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.evaluation.calibration import Bin
from stages.evaluation.charts import COLORS, INK, LINES, STYLE, Points, draw_line, thin, to_svg

SIZE = (4.2, 2.7)  # inches
GOLD, REWARD = LINES[0], LINES[1]


def two_axes_chart(title: str, gold: Points, reward: Points, kept_step: int | None) -> str:
    """Gold accuracy, on the left axis in per cent, and the learned reward, on the right one, over the same steps."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=SIZE, layout="constrained")
        left = figure.add_subplot()
        right = left.twinx()
        draw_line(left, "gold", thin([(step, 100 * value) for step, value in gold]), GOLD)
        draw_line(right, "reward", thin(reward), REWARD)
        for axes, label, color in ((left, "gold accuracy", GOLD), (right, "learned reward", REWARD)):
            axes.set_ylabel(label, color=color, weight="bold")
            axes.tick_params(length=0, axis="y", labelcolor=color)
            axes.locator_params(nbins=5)
            axes.margins(x=0.03, y=0.12)
        right.grid(visible=False)
        left.yaxis.set_major_formatter("{x:g} %")
        left.tick_params(length=0)
        left.set_xlabel("step")
        if kept_step is not None:
            mark_step(left, kept_step)
        return to_svg(figure)


def mark_step(axes: Axes, step: int) -> None:
    """A dashed line at the step whose weights were handed on."""
    axes.axvline(step, color=INK, lw=1, ls=(0, (4, 3)))
    axes.annotate(
        f"kept: {step}",
        (step, 1),
        (4, -9),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=8,
    )


def reliability_chart(models: Mapping[str, Sequence[Bin]]) -> str:
    """How sure the reward model is of its choices, and how often they are right; on the diagonal the two agree."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "reliability"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.plot([50, 100], [50, 100], color="#b6bec9", lw=2, zorder=1)
        for name, bins in models.items():
            points = [(100 * one.predicted, 100 * one.observed) for one in bins]
            axes.plot(*zip(*points, strict=True), color=COLORS[name], lw=1.4, marker="o", ms=4, label=name)
        axes.set_xlabel("how sure the reward model is")
        axes.set_ylabel("how often it is right")
        axes.set_xlim(48, 102)
        axes.set_ylim(-4, 104)
        axes.tick_params(length=0)
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.legend(loc="lower right", fontsize=8, handlelength=1.2)
        return to_svg(figure)
