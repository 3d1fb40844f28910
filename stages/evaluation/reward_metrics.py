"""How good the learned reward is on what the models themselves write: against the verifier, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stages.evaluation.answer import Answer
from stages.evaluation.bootstrap import Bootstrap
from stages.evaluation.calibration import calibration_error, reliability
from stages.rewards.ranking import Pairs, agreement, right_wrong_pairs
from stages.statistics.interval import Interval

MARKS = {"right": 1.0, "wrong": 0.0}


def reward_metrics(answers: Sequence[Answer], bootstrap: Bootstrap) -> dict[str, Interval]:
    """Of one model; only what its answers and samples allow: no score of right answers where none is right."""
    metrics: dict[str, Interval] = {}
    for name, mark in MARKS.items():
        scores = [
            a.reward_model_score for a in answers if a.gold == mark and a.reward_model_score is not None
        ]
        if scores:
            metrics[f"reward_model_score_{name}"] = bootstrap.mean(scores)
    pairs = sample_pairs(answers)
    if len(pairs.margins):
        metrics["reward_accuracy"] = reward_accuracy(pairs, bootstrap)
        error = calibration_error(reliability(pairs.margins))
        metrics["calibration_error"] = {
            "mean": error,
            "low": None,
            "high": None,
        }  # a mean of distances: biased
    return metrics


def sample_pairs(answers: Sequence[Answer]) -> Pairs:
    """The pairs of all prompts, by the reward before its normalisation."""
    rewards = torch.tensor([[sample.reward for sample in a.samples] for a in answers], dtype=torch.float64)
    right = torch.tensor([[sample.gold == 1 for sample in a.samples] for a in answers], dtype=torch.bool)
    return right_wrong_pairs(rewards, right)


def reward_accuracy(pairs: Pairs, bootstrap: Bootstrap) -> Interval:
    """The share of pairs that are ranked rightly, a tie being half. Prompts are resampled with all their pairs."""
    prompts, row = pairs.prompts.unique(return_inverse=True)
    counts = torch.zeros(len(prompts), dtype=torch.float64)
    alike = counts.index_add(0, row, agreement(pairs.margins))
    counts = counts.index_add(0, row, torch.ones_like(pairs.margins))
    return bootstrap.ratio(alike.tolist(), counts.tolist())
