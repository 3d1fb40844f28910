"""From answers to metrics.json, samples and words."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from stages.data.examples import Example
from stages.evaluation.answer import Answer, RowLoss
from stages.evaluation.bootstrap import Bootstrap
from stages.evaluation.labels import bounds, number, verdict
from stages.evaluation.metrics import flips, summarize, win_rates
from stages.evaluation.samples import sample_rows, write_csv, write_markdown
from stages.trees import Node, Tree

BOOTSTRAP = Bootstrap(1000, 0.95, 1)


def answer(gold: float | None, score: float | None = None, text: str = "3") -> Answer:
    return Answer(
        text,
        length=2,
        no_eos=0.0,
        gold=gold,
        reward_model_score=score,
        kl=0.5,
        entropy=3.0,
        tokens=4,
        samples=(),
    )


LOSSES = {name: [RowLoss(6.0, 2), RowLoss(2.0, 2)] for name in ("base", "sft", "rl")}


def test_every_number_of_every_model() -> None:
    answers = {
        "base": [answer(0.0), answer(0.0), answer(1.0), answer(0.0)],
        "sft": [answer(1.0), answer(0.0), answer(1.0), answer(0.0)],
        "rl": [answer(1.0), answer(1.0), answer(1.0), answer(0.0)],
    }
    metrics = summarize(answers, LOSSES, BOOTSTRAP)
    assert list(metrics) == ["base", "sft", "rl", "paired"]
    assert [metrics[name]["gold_accuracy"]["mean"] for name in ("base", "sft", "rl")] == [0.25, 0.5, 0.75]
    assert {name: interval["mean"] for name, interval in metrics["rl"].items()} == {
        "gold_accuracy": 0.75, "kl_k1": 0.5, "entropy": 0.75, "mean_length": 2.0, "no_eos_share": 0.0,
        "sft_loss": 2.0, "win_rate": 0.625,
    }  # fmt: skip
    assert "win_rate" not in metrics["sft"] and "reward_model_score" not in metrics["rl"]
    assert metrics["paired"]["sft_minus_base"]["mean"] == metrics["paired"]["rl_minus_sft"]["mean"] == 0.25
    assert flips(answers["rl"], answers["sft"]) == {
        "fixed": 1, "broken": 0, "right_in_both": 2, "wrong_in_both": 1
    }  # fmt: skip


def test_without_a_verifier_the_reward_model_decides() -> None:
    ours, theirs = [answer(None, 1.0), answer(None, 0.2)], [answer(None, 0.5), answer(None, 0.2)]
    assert win_rates(ours, theirs) == [1.0, 0.5]
    metrics = summarize({"base": theirs, "sft": theirs, "rl": ours}, LOSSES, BOOTSTRAP)
    assert metrics["paired"] == {} and "gold_accuracy" not in metrics["rl"]
    assert metrics["rl"]["reward_model_score"]["mean"] == pytest.approx(0.6)
    assert win_rates([answer(None)], [answer(None)]) is None
    assert flips(ours, theirs) is None


def test_shares_have_width_where_all_answers_agree() -> None:
    """0 of 200 right, none better and none cut off: no more than 1.9 % or 1.9 points, and not exactly 0."""
    answers = {name: [answer(0.0)] * 200 for name in ("base", "sft", "rl")}
    losses = {name: [RowLoss(float(i), 2) for i in range(200)] for name in answers}
    metrics = summarize(answers, losses, BOOTSTRAP)
    of_none = {"mean": 0.0, "low": 0.0, "high": pytest.approx(0.018846, abs=1e-6)}
    assert metrics["rl"]["gold_accuracy"] == metrics["rl"]["no_eos_share"] == of_none
    nothing = {"low": pytest.approx(-0.018845, abs=1e-6), "high": pytest.approx(0.018845, abs=1e-6)}
    assert metrics["paired"]["rl_minus_sft"] == {"mean": 0.0, **nothing}
    tied = {"low": pytest.approx(0.490577, abs=1e-6), "high": pytest.approx(0.509423, abs=1e-6)}
    assert metrics["rl"]["win_rate"] == {"mean": 0.5, **tied}
    assert metrics["rl"]["mean_length"] == {"mean": 2.0, "low": None, "high": None}
    assert bounds(metrics["rl"]["mean_length"], share=False) == "no interval"


def test_what_is_not_finite_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    broken = replace(answer(1.0, math.nan), kl=math.inf)
    answers = {
        "base": [answer(1.0, 0.5)] * 2,
        "sft": [answer(0.0, 0.5)] * 2,
        "rl": [broken, answer(1.0, 0.5)],
    }
    metrics = summarize(answers, LOSSES, BOOTSTRAP)
    assert "kl_k1" in metrics["sft"] and "reward_model_score" in metrics["base"]
    assert "kl_k1" not in metrics["rl"] and "reward_model_score" not in metrics["rl"]
    assert (
        "rl: reward_model_score, kl_k1, reward_model_score_right is not finite on some prompt" in caplog.text
    )
    assert win_rates([answer(None, math.nan)], [answer(None, 1.0)]) is None  # and not a tie


def test_samples_are_the_first_prompts(tmp_path: Path) -> None:
    examples = [Example(Tree(Node([1], [False]), []), f"{i} | 1", None, {"answer": i}) for i in range(3)]
    answers = {"sft": [answer(1.0, 0.5, "0")] * 3, "rl": [answer(0.0, 1.5, "a\nb")] * 3}
    rows = sample_rows(examples, answers, limit=2)
    assert rows[1] == {
        "prompt": "1 | 1", "answer": "1", "sft": "0", "sft_gold": 1.0, "sft_score": 0.5,
        "rl": "a\nb", "rl_gold": 0.0, "rl_score": 1.5,
    }  # fmt: skip
    write_csv(tmp_path / "samples.csv", rows)
    assert (tmp_path / "samples.csv").read_text().splitlines()[0] == (
        "prompt,answer,sft,sft_gold,sft_score,rl,rl_gold,rl_score"
    )
    write_markdown(tmp_path / "samples.md", rows, ["sft", "rl"])
    lines = (tmp_path / "samples.md").read_text().splitlines()
    assert lines[2:5] == [
        "| prompt | answer | sft | rl |",
        "| --- | --- | --- | --- |",
        r"| 0 \| 1 | 0 | ✓ 0 | ✗ a<br>b |",
    ]


def test_numbers_in_words() -> None:
    assert number(0.4449, share=True) == "44.5 %"
    assert number(-1.25, share=False) == "−1.25"
    assert number(-0.001, share=False) == "0.00"
    assert bounds({"mean": 0.1, "low": -0.0123, "high": 0.2}, share=True) == "−1.2 to 20.0"
    better = verdict("rl", "sft", {"mean": 0.095, "low": 0.04, "high": 0.15})
    assert better == "rl beats sft by 9.5 points (paired interval 4.0 to 15.0)."
    worse = verdict("rl", "sft", {"mean": -0.095, "low": -0.15, "high": -0.04})
    assert worse == "rl falls behind sft by 9.5 points (paired interval −15.0 to −4.0)."
    same = verdict("rl", "sft", {"mean": 0.01, "low": -0.02, "high": 0.04})
    assert same == "rl and sft cannot be told apart: 1.0 points apart (paired interval −2.0 to 4.0)."
