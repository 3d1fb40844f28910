"""The stage itself: what it writes and says of models whose numbers are known."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from stages.evaluate import evaluate
from stages.results import show
from tests.evaluation.tiny import LOG_VOCABULARY, stage


def test_known_models_give_known_numbers(project: Path, tmp_path: Path) -> None:
    run = stage(project, tmp_path / "out")
    evaluate(run)
    run.tracker.finish()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    means = {name: {key: value["mean"] for key, value in part.items()} for name, part in metrics.items()}
    spread = pytest.approx(LOG_VOCABULARY)
    uniform = {
        "gold_accuracy": 0.5, "reward_model_score": 0.5, "kl_k1": 0.0, "mean_length": 4.0,
        "no_eos_share": 1.0, "entropy": spread, "sft_loss": spread,
    }  # fmt: skip
    # the reward model says the same of everything
    uniform |= {"reward_model_score_right": 0.5, "reward_model_score_wrong": 0.5}
    assert means["sft"] == uniform
    assert means["rl"] == uniform | {"win_rate": 0.5}
    assert means["paired"] == {"sft_minus_base": 0.5, "rl_minus_sft": 0.0}
    assert means["paired_reward"] == {"rl_minus_sft": 0.0}
    assert json.loads((tmp_path / "out" / "verdict.json").read_text()) == {"finding": None, "sentence": None}
    # A sharp model: far from uniform, sure of itself, and wrong about the demonstrations.
    assert means["base"]["kl_k1"] > 4 and means["base"]["entropy"] < 2
    assert means["base"]["sft_loss"] > LOG_VOCABULARY

    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").read_text().splitlines()))
    assert [(row["prompt"], row["sft"], row["sft_gold"]) for row in rows] == [
        ("0 + 1 =", "!!!!", "0.0"), ("1 + 1 =", "!!!!", "1.0"), ("2 + 1 =", "!!!!", "0.0")
    ]  # fmt: skip
    assert (tmp_path / "out" / "curves.csv").read_text() == (
        "step,rl/eval/gold_accuracy,sft/train/loss\n1,nan,2.0\n2,0.5,1.5\n"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "rl and sft cannot be told apart: 0.0 points" in page
    assert re.findall(r'(?:src|href)="[^#]', page) == []  # self-contained: nothing is loaded from elsewhere


def test_the_same_seed_writes_the_same_bytes(project: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = stage(project, tmp_path / name, "evaluate.bf16=auto")
        evaluate(run)
        run.tracker.finish()
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["curves.csv", "metrics.json", "report.html", "samples.csv", "samples.md", "verdict.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_reward_model_or_verifier_their_numbers_are_left_out(project: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    (marker / "marker.json").write_text("{}")
    run = stage(project, tmp_path / "out", "data.verifier=null", f"+run.inputs.reward_model={marker}")
    evaluate(run)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics["rl"]) == {"kl_k1", "entropy", "mean_length", "no_eos_share", "sft_loss"}
    assert metrics["paired"] == {}
    assert "Held-out sft loss" in (tmp_path / "out" / "report.html").read_text()


def test_which_step_was_kept_is_read_and_told(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rl = tmp_path / "project" / "rl"
    shutil.copytree(project, tmp_path / "project")
    (rl / "curves.csv").write_text("step,eval/gold_accuracy,eval/reward\n0,0.5,0.1\n10,0.6,0.5\n20,0.2,0.8\n")
    (rl / "selection.json").write_text(
        json.dumps(
            {
                "metric": "eval/gold_accuracy", "direction": "maximize", "kept_step": 10, "last_step": 20,
                "total_steps": 40, "value": 0.6, "start_value": 0.5,
                "stopped_early": "it fell, and had not recovered by step 20",
                "difference": {"mean": 0.1, "low": -0.02, "high": 0.2}, "n": 100,
            }
        )
    )  # fmt: skip
    evaluate(stage(tmp_path / "project", tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert told["finding"] == "over-optimisation"
    kept = (
        "rl: kept step 10 of 40: eval/gold_accuracy 60.0 % (+10.0 to step 0, paired 95 % interval -2.0 to 20.0); "
        "stopped early: it fell, and had not recovered by step 20. Not shown to be better than the sft model."
    )
    page = (tmp_path / "out" / "report.html").read_text()
    for sentence in (told["sentence"], kept):
        assert sentence in page and sentence in caplog.text
    assert page.count(told["sentence"]) == 2  # beside the headline, and in the section
    assert "Is the reward still right?" in page and "kept: 10" in page


def test_one_row_is_measured_and_its_interval_is_not_made_up(project: Path, tmp_path: Path) -> None:
    evaluate(stage(project, tmp_path / "out", "evaluate.num_prompts=1"))
    text = (tmp_path / "out" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert metrics["rl"]["gold_accuracy"] == {"mean": 0.0, "low": 0.0, "high": pytest.approx(0.793451)}
    assert metrics["rl"]["mean_length"] == {"mean": 4.0, "low": None, "high": None}
    assert "no interval" in (tmp_path / "out" / "report.html").read_text()


def test_the_results_are_printed(project: Path, tmp_path: Path) -> None:
    metrics = evaluate(stage(project, tmp_path / "out"))
    assert metrics is not None
    console = Console(width=120, file=io.StringIO(), record=True)
    show(metrics, "Over-optimisation: it rose.", console)
    text = console.export_text()
    assert "Wilson's score interval" in text and "Tango's" in text
    assert "Gold accuracy" in text and "50.0 %" in text and "make ui" in text
    assert "Over-optimisation: it rose." in text
