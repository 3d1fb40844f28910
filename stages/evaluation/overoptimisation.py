"""Over-optimisation, named where it happens: the reward rises, what it stands for does not (Gao et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

from stages.evaluation.curves import Points
from stages.evaluation.labels import Metrics, bounds, minus, number
from stages.statistics.interval import Interval
from stages.statistics.proportions import quantile

VERDICT = "verdict.json"  # in evaluate's output: what it found, in words
OVER_OPTIMISATION = "over-optimisation"
REWARD_ALONE = "the reward rises and gold accuracy does not"
# Curves of the learned reward, the best first, and over how many steps on either side a point is averaged: those of a
# step's own samples are noisy. eval/reward is the sum of all rewards; of several, each is logged by itself, too.
REWARD_CURVES = {
    "eval/rewards/reward_model": 0,
    "eval/reward": 0,
    "objective/rewards/reward_model": 2,
    "objective/scores": 2,
}


class Finding(NamedTuple):
    """What is wrong with the reward, and the numbers that say so."""

    kind: str  # OVER_OPTIMISATION or REWARD_ALONE
    sentence: str


class Course(NamedTuple):
    """Gold accuracy and learned reward, each at a run's evaluation with the highest accuracy and at its last one."""

    peak_step: int
    gold: tuple[float, float]
    reward: tuple[float, float]

    @property
    def diverges(self) -> bool:
        """Whether accuracy falls and the reward rises."""
        return self.gold[1] < self.gold[0] and self.reward[1] > self.reward[0]


def judge_reward(
    metrics: Metrics,
    curves: Mapping[str, Points],
    num_prompts: int | None,
    confidence: float,
) -> Finding | None:
    """From metrics.json and rl's curves, whose evaluations are of `num_prompts` prompts (None: unknown).

    OVER_OPTIMISATION: against sft the reward rises and gold accuracy falls, and neither interval contains 0; or from
    its peak in the run accuracy falls by more than noise, while the reward rises. REWARD_ALONE: against sft the reward
    rises, and accuracy is not shown to. None where neither is found, or there is no learned reward or no verifier.
    """
    gold = metrics["paired"].get("rl_minus_sft")
    if gold is None or "reward_model_score" not in metrics["rl"]:
        return None
    rises, course = reward_rises(metrics), course_of(curves)
    diverging = course if course and course.diverges else None
    worse_than_sft = rises and (gold["high"] or 0) < 0
    if worse_than_sft or (diverging and falls(*diverging.gold, num_prompts, confidence)):
        sentences = [
            *([against_sft(metrics, gold)] if worse_than_sft else []),
            *([over_the_run(diverging)] if diverging else []),
        ]
        return Finding(OVER_OPTIMISATION, f"Over-optimisation: {'; '.join(sentences)}.")
    if rises and (gold["low"] or 0) <= 0:
        change = against_sft(metrics, gold)
        return Finding(REWARD_ALONE, f"The learned reward rises and gold accuracy is not shown to: {change}.")
    return None


def reward_rises(metrics: Metrics) -> bool:
    """Whether rl's learned reward is above sft's: by the paired interval; in a metrics.json without one, by intervals
    of the two that do not meet."""
    paired = metrics.get("paired_reward", {}).get("rl_minus_sft")
    if paired is not None:
        return (paired["low"] or 0) > 0
    high, low = metrics["sft"]["reward_model_score"]["high"], metrics["rl"]["reward_model_score"]["low"]
    return high is not None and low is not None and low > high


def course_of(curves: Mapping[str, Points]) -> Course | None:
    """From rl's curves; None where there are no two evaluations or no reward, or accuracy is highest at the end."""
    gold = curves.get("eval/gold_accuracy", [])
    name = next((name for name in REWARD_CURVES if name in curves), None)
    if len(gold) < 2 or name is None:
        return None
    peak, last = max(gold, key=lambda point: point[1]), gold[-1]
    if peak[1] <= last[1]:
        return None
    at_peak, at_last = (value_near(curves[name], step, REWARD_CURVES[name]) for step in (peak[0], last[0]))
    return Course(peak[0], (peak[1], last[1]), (at_peak, at_last))


def value_near(points: Points, step: int, reach: int) -> float:
    """The mean of the points within `reach` steps, else the nearest one."""
    found = [value for at, value in points if abs(at - step) <= reach]
    return sum(found) / len(found) if found else min(points, key=lambda point: abs(point[0] - step))[1]


def falls(peak: float, last: float, num_prompts: int | None, confidence: float) -> bool:
    """Whether the share `last` is below `peak` by more than the noise of two independent samples of `num_prompts`.
    False where that is unknown.

    Evaluations are of the same prompts, so that their difference is less noisy than this, which makes up for the peak
    having been chosen among several.
    """
    if not num_prompts:
        return False
    noise = sqrt((peak * (1 - peak) + last * (1 - last)) / num_prompts)
    return peak - last > quantile(confidence) * noise


def against_sft(metrics: Metrics, gold: Interval) -> str:
    """In words; `gold` is the paired difference of accuracy."""
    scores = [number(metrics[name]["reward_model_score"]["mean"], False) for name in ("sft", "rl")]
    shares = [number(metrics[name]["gold_accuracy"]["mean"], True) for name in ("sft", "rl")]
    points = minus(f"{100 * gold['mean']:+.1f}")
    return (
        f"from sft to rl the learned reward goes from {scores[0]} to {scores[1]}, gold accuracy from {shares[0]} to "
        f"{shares[1]} ({points} points, paired interval {bounds(gold, True)})"
    )


def over_the_run(course: Course) -> str:
    rewards, shares = (
        [number(v, share) for v in pair] for pair, share in ((course.reward, False), (course.gold, True))
    )
    return (
        f"from step {course.peak_step} on the learned reward rose from {rewards[0]} to {rewards[1]} while gold "
        f"accuracy fell from {shares[0]} to {shares[1]}"
    )
