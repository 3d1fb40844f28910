"""The report's section on the learned reward: what its template shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages.evaluation.charts import COLORS, LINES, curve_chart, interval_chart
from stages.evaluation.curves import Points
from stages.evaluation.labels import Metrics, number
from stages.evaluation.reward_charts import SIZE, reliability_chart, two_axes_chart
from stages.evaluation.reward_check import JUDGED, RewardCheck

COLOR_OF = {"right": LINES[2], "wrong": "#c2413b"}  # by what the verifier says of an answer
# Of each chart the title, the curve of gold accuracy, and those of the reward: the first that was logged is drawn.
COURSES = (
    ("Held-out prompts", "eval/gold_accuracy", ("eval/rewards/reward_model", "eval/reward")),
    (
        "The run's own samples",
        "objective/gold_accuracy",
        ("objective/rewards/reward_model", "objective/scores"),
    ),
)
COURSES_CAPTION = (
    "Both lines should rise. Where the orange one (the reward) rises and the blue one (right answers) falls, the "
    "policy is over-optimised."
)
KEPT_CAPTION = " The dashed line is the step that was handed on."
SCORES_CAPTION = (
    "What the reward model gives to right and to wrong answers, with intervals. Right ones should stay far above wrong "
    "ones. If wrong ones go up from sft to rl, rl has learned to please the reward."
)
RANKING_CAPTION = (
    "Of two samples of one prompt, one right and one wrong, how often the reward puts the right one first. 50 % is "
    "chance: then the reward says nothing about this policy's samples."
)
ENDS_CAPTION = (
    "The same on held-out prompts, at the two ends of the run, with intervals. If rl is much lower than sft, the "
    "policy has left what the reward model knows. 50 % is chance."
)
CALIBRATION_CAPTION = (
    "Each dot is a group of pairs. On the grey line the reward model is right as often as it is sure. Below it, it is "
    "too sure of itself, and its high scores are not to be trusted. Mean distance: {errors}."
)


def reward_section(
    metrics: Metrics, curves: Mapping[str, Mapping[str, Points]], check: RewardCheck
) -> dict[str, Any] | None:
    """What the template shows: `sentences` and `figures` (title, chart as SVG, caption), these only where there is a
    verifier. None where there is no learned reward."""
    if not any("reward_model_score" in metrics[name] for name in JUDGED):
        return None
    rl = curves.get("rl", {})
    has_gold = any("gold_accuracy" in metrics[name] for name in JUDGED)
    figures = [*courses(rl, check), *scores(metrics), *ranking(metrics, rl), *calibration(metrics, check)]
    return {"sentences": check.sentences, "figures": figures if has_gold else []}


def figure(title: str, chart: str, caption: str) -> dict[str, str]:
    return {"title": title, "chart": chart, "caption": caption}


def courses(rl: Mapping[str, Points], check: RewardCheck) -> Iterator[dict[str, str]]:
    """Gold accuracy against the reward over the run."""
    kept = check.outcome.kept_step if check.outcome else None
    for title, gold, rewards in COURSES:
        name = next((name for name in rewards if name in rl), None)
        if gold in rl and name is not None:
            chart = two_axes_chart(title, rl[gold], rl[name], kept)
            yield figure(
                f"Gold accuracy and learned reward: {title.lower()}",
                chart,
                COURSES_CAPTION + (KEPT_CAPTION if check.outcome else ""),
            )


def scores(metrics: Metrics) -> Iterator[dict[str, str]]:
    """Scores of right and of wrong answers."""
    rows = {
        f"{name}, {mark}": metrics[name][f"reward_model_score_{mark}"]
        for name in JUDGED
        for mark in COLOR_OF
        if f"reward_model_score_{mark}" in metrics[name]
    }
    if rows:
        colors = {row: COLOR_OF[row.partition(", ")[2]] for row in rows}
        yield figure(
            "Scores of right and of wrong answers",
            interval_chart(rows, False, colors, SIZE[0]),
            SCORES_CAPTION,
        )


def ranking(metrics: Metrics, rl: Mapping[str, Points]) -> Iterator[dict[str, str]]:
    """Reward accuracy over the run, and at its two ends."""
    if points := rl.get("objective/reward_accuracy"):
        percent = [(step, 100 * value) for step, value in points]
        chart = curve_chart("Reward accuracy", {"reward accuracy, %": percent})
        yield figure("Reward accuracy over the run, %", chart, RANKING_CAPTION)
    rows = {name: metrics[name]["reward_accuracy"] for name in JUDGED if "reward_accuracy" in metrics[name]}
    if rows:
        chart = interval_chart(rows, True, COLORS, SIZE[0])
        yield figure("Reward accuracy on samples of sft and rl", chart, ENDS_CAPTION)


def calibration(metrics: Metrics, check: RewardCheck) -> Iterator[dict[str, str]]:
    """How sure, and how often right."""
    if check.calibration:
        errors = ", ".join(
            f"{name} {number(metrics[name]['calibration_error']['mean'], True)}" for name in check.calibration
        )
        yield figure(
            "Calibration of the reward model",
            reliability_chart(check.calibration),
            CALIBRATION_CAPTION.format(errors=errors),
        )
