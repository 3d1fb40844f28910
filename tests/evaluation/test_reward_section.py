"""The report's section on the learned reward: what it shows, of what there is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.evaluation.answer import Answer, RowLoss, Sample
from stages.evaluation.bootstrap import Bootstrap
from stages.evaluation.metrics import summarize
from stages.evaluation.report import Report
from stages.evaluation.reward_check import RewardCheck, check_reward
from stages.outcome import Outcome

BOOTSTRAP = Bootstrap(200, 0.95, 1)
ANSWER = Answer("3", 2, 0.0, gold=1.0, reward_model_score=0.5, kl=0.5, entropy=3.0, tokens=4, samples=())
CURVES = {
    "eval/gold_accuracy": [(0, 0.5), (10, 0.6), (20, 0.3)],
    "eval/reward": [(0, 0.3), (10, 0.5), (20, 0.8)],
    "objective/gold_accuracy": [(1, 0.5), (20, 0.4)],
    "objective/scores": [(1, 0.3), (20, 0.8)],
    "objective/reward_accuracy": [(1, 0.7), (20, 0.5)],
}
KEPT = Outcome(
    metric="eval/gold_accuracy", direction="maximize", kept_step=10, last_step=20, total_steps=20, value=0.6,
    start_value=0.5, difference={"mean": 0.1, "low": -0.02, "high": 0.22}, n=100,
)  # fmt: skip


def answers_of(accuracy: float) -> list[Answer]:
    """40 prompts with four samples each, scored with some sense."""
    draw = random.Random(1)

    def sample() -> Sample:
        gold = float(draw.random() < accuracy)
        return Sample(gold, draw.gauss(gold, 1.0))

    return [
        replace(
            ANSWER,
            gold=(found := sample()).gold,
            reward_model_score=found.reward,
            samples=tuple(sample() for _ in range(4)),
        )
        for _ in range(40)
    ]


def page(
    answers: Mapping[str, Sequence[Answer]], rl: Mapping[str, Any], kept: Outcome | None
) -> tuple[str, RewardCheck]:
    losses = {name: [RowLoss(2.0, 2), RowLoss(1.0, 2)] for name in answers}
    metrics = summarize(answers, losses, BOOTSTRAP)
    check = check_reward(metrics, answers, rl, kept, 0.95)
    report = Report({"model": "m"}, metrics, {"rl": rl} if rl else {}, [], None, 0.95, check)
    return report.html(), check


def test_all_of_it():
    answers = {"base": [replace(ANSWER, gold=0.0)] * 40, "sft": answers_of(0.5), "rl": answers_of(0.4)}
    html, check = page(answers, CURVES, KEPT)
    section = html.split("Is the reward still right?")[1].split("</section>")[0]
    assert section.count("<figure>") == 6 and section.count("kept: 10") == 2
    assert "gold accuracy</text>" in section and "learned reward</text>" in section  # both axes are named
    for row in ("sft, right", "sft, wrong", "rl, right", "rl, wrong"):
        assert f">{row}</text>" in section
    assert set(check.calibration) == {"sft", "rl"}
    # 0.6 to 0.3 of 100 prompts is more than 1.96 * 0.067
    assert check.summary() == {"eval/over_optimisation": 1.0, "eval/reward_alone": 0.0}
    told = "from step 10 on the learned reward rose from 0.50 to 0.80 while gold accuracy fell from 60.0 % to 30.0 %"
    assert told in section and told in html.split("All numbers")[0].split("Is the reward")[0]
    assert (
        "rl: kept step 10 of 20: eval/gold_accuracy 60.0 % (+10.0 to step 0, paired 95 % interval" in section
    )
    assert "Not shown to be better than the sft model." in section


def test_without_curves_or_selection():
    answers = {"base": [ANSWER] * 40, "sft": answers_of(0.5), "rl": answers_of(0.5)}
    html, check = page(answers, {}, None)
    assert check.sentences == [] and check.as_json() == {"finding": None, "sentence": None}
    assert html.count("kept:") == 0 and "Calibration of the reward model" in html


def test_without_a_verifier_there_is_nothing_to_compare_with():
    rows = [replace(ANSWER, gold=None), replace(ANSWER, gold=None, reward_model_score=0.7)]
    html, _ = page(dict.fromkeys(("base", "sft", "rl"), rows), CURVES, KEPT)
    assert "There is no verifier to compare it with" in html


def test_without_a_learned_reward_there_is_no_section():
    rows = [replace(ANSWER, reward_model_score=None)] * 2
    html, check = page(dict.fromkeys(("base", "sft", "rl"), rows), CURVES, None)
    assert "Is the reward still right?" not in html and check.finding is None
