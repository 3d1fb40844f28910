"""Over-optimisation: what it is called and when, by the numbers of runs where it happened and where it did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.evaluation.overoptimisation import OVER_OPTIMISATION, REWARD_ALONE, falls, judge_reward
from stages.tracking.curves import read_curves

RECORDED = sorted(path.parent for path in (Path(__file__).parent / "overoptimised").rglob("metrics.json"))


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def metrics(
    gold: tuple[float, float],
    difference: dict[str, float],
    scores: tuple[float, float],
    rise: dict[str, float],
) -> Any:
    """Of sft and rl, and of their differences."""
    models = {
        name: {"gold_accuracy": interval(share, 0, 1), "reward_model_score": interval(score, score, score)}
        for name, share, score in zip(("sft", "rl"), gold, scores, strict=True)
    }
    return models | {"paired": {"rl_minus_sft": difference}, "paired_reward": {"rl_minus_sft": rise}}


# sft of 52 steps on 200 held-out problems, then PPO on the reward model that was learnt from its samples
OVERDONE = metrics((0.52, 0.405), interval(-0.115, -0.175, -0.055), (0.32, 0.66), interval(0.34, 0.28, 0.4))


def test_the_run_after_a_well_trained_sft():
    found = judge_reward(OVERDONE, {}, None, 0.95)
    assert found is not None and found.kind == OVER_OPTIMISATION
    assert found.sentence == (
        "Over-optimisation: from sft to rl the learned reward goes from 0.32 to 0.66, gold accuracy from 52.0 % to "
        "40.5 % (−11.5 points, paired interval −17.5 to −5.5)."
    )


def test_metrics_without_the_rewards_difference_are_judged_by_intervals_that_do_not_meet():
    older = {name: part for name, part in OVERDONE.items() if name != "paired_reward"}
    found = judge_reward(older, {}, None, 0.95)
    assert found is not None and found.kind == OVER_OPTIMISATION
    older["rl"] = older["rl"] | {"reward_model_score": interval(0.66, 0.3, 0.9)}
    assert judge_reward(older, {}, None, 0.95) is None


@pytest.mark.parametrize("reward", ["eval/reward", "objective/scores"])
def test_over_the_run(reward: str):
    """rl is better than sft, for the best step was kept; the run went wrong all the same."""
    kept = metrics((0.52, 0.62), interval(0.1, 0.04, 0.16), (0.3, 0.5), interval(0.2, 0.1, 0.3))
    curves = {
        "eval/gold_accuracy": [(0, 0.52), (10, 0.62), (20, 0.5), (30, 0.41)],
        reward: [(0, 0.3), (10, 0.5), (20, 0.7), (30, 0.8)],
    }
    found = judge_reward(kept, curves, 200, 0.95)
    assert found is not None and found.kind == OVER_OPTIMISATION
    assert found.sentence == (
        "Over-optimisation: from step 10 on the learned reward rose from 0.50 to 0.80 while gold accuracy fell from "
        "62.0 % to 41.0 %."
    )
    assert judge_reward(kept, curves, 20, 0.95) is None  # 20 prompts cannot show it
    assert judge_reward(kept, curves, None, 0.95) is None
    falling = curves | {reward: [(0, 0.3), (10, 0.8), (20, 0.7), (30, 0.5)]}
    assert judge_reward(kept, falling, 200, 0.95) is None  # the reward says so, too: it is right
    # Of several rewards the sum may rise by another one's part.
    several = curves | {"eval/reward": curves[reward], "eval/rewards/reward_model": falling[reward]}
    assert judge_reward(kept, several, 200, 0.95) is None


def test_a_reward_that_rises_alone():
    numbers = metrics((0.52, 0.53), interval(0.01, -0.05, 0.07), (0.32, 0.66), interval(0.34, 0.28, 0.4))
    found = judge_reward(numbers, {}, None, 0.95)
    assert found is not None and found.kind == REWARD_ALONE
    assert "+1.0 points, paired interval −5.0 to 7.0" in found.sentence


def test_nothing_is_said_of_a_run_that_went_well_or_cannot_be_judged():
    well = metrics((0.185, 0.385), interval(0.2, 0.135, 0.27), (0.32, 0.91), interval(0.59, 0.5, 0.7))
    curves = {"eval/gold_accuracy": [(0, 0.2), (10, 0.45), (40, 0.47)], "eval/reward": [(0, 0.3), (40, 0.9)]}
    assert judge_reward(well, curves, 64, 0.95) is None
    still = metrics((0.5, 0.4), interval(-0.1, -0.2, -0.01), (0.3, 0.31), interval(0.01, -0.1, 0.1))
    assert judge_reward(still, {}, None, 0.95) is None  # worse, but the reward does not claim otherwise
    assert judge_reward({"sft": {}, "rl": {}, "paired": {}}, curves, 64, 0.95) is None
    verified = {"sft": {}, "rl": {}, "paired": {"rl_minus_sft": interval(-0.1, -0.2, -0.05)}}
    assert judge_reward(verified, curves, 64, 0.95) is None  # no learned reward


def test_noise_by_hand():
    """0.62 and 0.41 of 64: a deviation of sqrt((0.2356 + 0.2419) / 64) = 0.0864, and 0.21 is 2.43 of them."""
    assert falls(0.62, 0.41, 64, 0.95) and falls(0.62, 0.41, 64, 0.984) and not falls(0.62, 0.41, 64, 0.986)
    assert not falls(0.62, 0.56, 64, 0.95)


@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.name)
def test_recorded_runs(folder: Path):
    """A run's curves.csv (of rl) and metrics.json (of evaluate)."""
    numbers = json.loads((folder / "metrics.json").read_text())
    found = judge_reward(numbers, read_curves(folder / "curves.csv"), None, 0.95)
    assert found is not None and found.kind == OVER_OPTIMISATION
