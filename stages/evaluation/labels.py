"""How the metrics are called and written, for the report and the results table."""

from __future__ import annotations

import re
from typing import NamedTuple

from stages.statistics.interval import Interval

MODELS = ("base", "sft", "rl")
Metrics = dict[str, dict[str, Interval]]  # metrics.json


class Label(NamedTuple):
    """A metric's name for people, what it is, and whether it is a share."""

    key: str
    name: str
    note: str
    share: bool


LABELS = (
    Label("gold_accuracy", "Gold accuracy", "answers that the verifier calls right", True),
    Label("win_rate", "Win rate over sft", "better answers; a tie is half a win", True),
    Label(
        "reward_model_score", "Reward-model score", "0 and 1: mean and deviation on preference data", False
    ),
    Label(
        "reward_model_score_right", "Score of right answers", "reward model, answers that are right", False
    ),
    Label(
        "reward_model_score_wrong",
        "Score of wrong answers",
        "the same of wrong ones: is to stay below",
        False,
    ),
    Label(
        "reward_accuracy",
        "Reward accuracy",
        "right above wrong, in pairs of samples of a prompt; 50 % is chance",
        True,
    ),
    Label("calibration_error", "Calibration error", "of the reward model's certainty, on these pairs", True),
    Label("kl_k1", "KL to sft", "nats per completion, k1 estimator, own samples", False),
    Label("entropy", "Entropy", "nats per token, own samples", False),
    Label("mean_length", "Length", "tokens per answer", False),
    Label("no_eos_share", "Without end", "answers cut off by max_new_tokens", True),
    Label("sft_loss", "Held-out sft loss", "nats per token of the demonstrations: the alignment tax", False),
)


def number(value: float, share: bool) -> str:
    """44.5 % or 0.445, with a real minus sign."""
    text = f"{100 * value:.1f} %" if share else f"{value:.3g}" if abs(value) >= 100 else f"{value:.2f}"
    return minus(text)


def bounds(interval: Interval, share: bool) -> str:
    """The interval's ends: 37.5 to 51.5, or 0.38 to 0.52; "no interval" where it has none."""
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return "no interval"
    scale, digits = (100, 1) if share else (1, 2)
    return minus(f"{scale * low:.{digits}f} to {scale * high:.{digits}f}")


def verdict(name: str, other: str, difference: Interval) -> str:
    """What a paired difference of accuracy says, and whether it says anything."""
    points = minus(f"{100 * abs(difference['mean']):.1f}")
    interval = f"paired interval {bounds(difference, True)}"
    if (difference["low"] or 0) > 0:
        return f"{name} beats {other} by {points} points ({interval})."
    if (difference["high"] or 0) < 0:
        return f"{name} falls behind {other} by {points} points ({interval})."
    return f"{name} and {other} cannot be told apart: {points} points apart ({interval})."


def minus(text: str) -> str:
    """A hyphen is not a minus; and what rounds to zero has no sign."""
    return re.sub(r"-(0\.0+)(?!\d)", r"\1", text).replace("-", "−")
