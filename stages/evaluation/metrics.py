"""From what was measured on each prompt to the numbers of metrics.json."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import isfinite

from stages.evaluation.answer import Answer, RowLoss
from stages.evaluation.bootstrap import Bootstrap
from stages.evaluation.labels import Metrics
from stages.evaluation.reward_metrics import reward_metrics
from stages.statistics.interval import Interval
from stages.statistics.paired import paired_difference
from stages.statistics.proportions import tango, wilson

log = logging.getLogger(__name__)


def summarize(
    answers: Mapping[str, Sequence[Answer]], losses: Mapping[str, Sequence[RowLoss]], bootstrap: Bootstrap
) -> Metrics:
    """Every metric of every model with its interval; one that was not measured is left out, not null.

    `paired` holds the differences of accuracy over the same prompts, `paired_reward` that of the reward model's score,
    and rl's `win_rate` is over sft.
    """
    metrics = {name: model_metrics(answers[name], losses[name], bootstrap) for name in answers}
    wins = win_rates(answers["rl"], answers["sft"])
    if wins is not None:
        metrics["rl"]["win_rate"] = win_rate(wins, bootstrap.confidence)
    gold = {name: known([answer.gold for answer in rows]) for name, rows in answers.items()}
    metrics["paired"] = {}
    for name, other in (("sft", "base"), ("rl", "sft")):
        ours, theirs = gold[name], gold[other]
        if ours is not None and theirs is not None:
            found = paired_difference(ours, theirs, [1.0] * len(ours), bootstrap.confidence)
            metrics["paired"][f"{name}_minus_{other}"] = found
    ours, theirs = (known([a.reward_model_score for a in answers[name]]) for name in ("rl", "sft"))
    if ours is not None and theirs is not None:
        risen = bootstrap.mean([a - b for a, b in zip(ours, theirs, strict=True)])
        metrics["paired_reward"] = {"rl_minus_sft": risen}
    return {name: finite(name, found) for name, found in metrics.items()}


def model_metrics(
    answers: Sequence[Answer], losses: Sequence[RowLoss], bootstrap: Bootstrap
) -> dict[str, Interval]:
    """The metrics of one model by itself. Entropy and loss are per token, the rest per prompt."""
    tokens = [float(answer.tokens) for answer in answers]
    metrics = {
        "kl_k1": bootstrap.mean([answer.kl for answer in answers]),
        "entropy": bootstrap.ratio([answer.entropy for answer in answers], tokens),
        "mean_length": bootstrap.mean([float(answer.length) for answer in answers]),
        "no_eos_share": share([answer.no_eos for answer in answers], bootstrap.confidence),
        "sft_loss": bootstrap.ratio([row.total for row in losses], [float(row.tokens) for row in losses]),
    }
    scores = known([answer.reward_model_score for answer in answers])
    if scores is not None:
        metrics = {"reward_model_score": bootstrap.mean(scores)} | metrics
    gold = known([answer.gold for answer in answers])
    if gold is not None:
        metrics = {"gold_accuracy": share(gold, bootstrap.confidence)} | metrics
    return metrics | reward_metrics(answers, bootstrap)


def share(values: Sequence[float], confidence: float) -> Interval:
    """The mean of values that are 0 or 1."""
    return wilson(sum(value == 1 for value in values), len(values), confidence)


def win_rate(wins: Sequence[float], confidence: float) -> Interval:
    """The mean of wins (1), ties (1/2) and losses (0). It is half of what lies between losing all, -1, and winning
    all, 1: a difference of two shares over the same prompts."""
    found = tango(sum(win == 1 for win in wins), sum(win == 0 for win in wins), len(wins), confidence)
    mean, low, high = found["mean"], found["low"], found["high"]
    assert low is not None and high is not None  # tango always knows
    return {"mean": (1 + mean) / 2, "low": (1 + low) / 2, "high": (1 + high) / 2}


def finite(model: str, metrics: Mapping[str, Interval]) -> dict[str, Interval]:
    """The metrics that are numbers. A mean with an infinite or undefined part is none, and no JSON either."""
    lost = [name for name, interval in metrics.items() if not isfinite(interval["mean"])]
    if lost:
        log.warning("%s: %s is not finite on some prompt, and is left out", model, ", ".join(lost))
    return {name: interval for name, interval in metrics.items() if name not in lost}


def win_rates(answers: Sequence[Answer], others: Sequence[Answer]) -> list[float] | None:
    """Per prompt 1 where ours is better, 1/2 for a tie: by the verifier, else the reward model, else None."""
    for field in ("gold", "reward_model_score"):
        ours = known([getattr(answer, field) for answer in answers])
        theirs = known([getattr(answer, field) for answer in others])
        if ours is not None and theirs is not None and all(map(isfinite, [*ours, *theirs])):
            return [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(ours, theirs, strict=True)]
    return None


def known(values: Sequence[float | None]) -> list[float] | None:
    """The values, if there are any: a verifier or reward model scores every prompt, or is not there."""
    numbers = [value for value in values if value is not None]
    return numbers or None


def flips(answers: Sequence[Answer], others: Sequence[Answer]) -> dict[str, int] | None:
    """How many prompts the first model has made right (`fixed`) or wrong (`broken`) against the second."""
    ours, theirs = known([a.gold for a in answers]), known([a.gold for a in others])
    if ours is None or theirs is None:
        return None
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "fixed": sum(a > b for a, b in pairs),
        "broken": sum(a < b for a, b in pairs),
        "right_in_both": sum(a == b == 1 for a, b in pairs),
        "wrong_in_both": sum(a == b == 0 for a, b in pairs),
    }
