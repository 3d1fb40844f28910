"""What is said of a training once it is over."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from stages.outcome import Outcome
from stages.results import show_kept
from stages.statistics.interval import Interval


def outcome(metric: str, direction: str, difference: Interval | None, **changes: object) -> Outcome:
    values = {
        "kept_step": 30,
        "last_step": 50,
        "total_steps": 60,
        "value": 0.58,
        "start_value": 0.52,
        "n": 64,
    }
    return Outcome(metric=metric, direction=direction, difference=difference, **(values | changes))  # type: ignore[arg-type]


ABOVE: Interval = {"mean": 0.06, "low": 0.012, "high": 0.113}
BELOW: Interval = {"mean": -0.06, "low": -0.113, "high": -0.012}
AROUND: Interval = {"mean": 0.02, "low": -0.03, "high": 0.07}
UNKNOWN: Interval = {"mean": 0.02, "low": None, "high": None}


@pytest.mark.parametrize(
    ("direction", "difference", "better"),
    [
        ("maximize", ABOVE, True), ("maximize", AROUND, False), ("maximize", BELOW, False),
        ("maximize", UNKNOWN, False), ("maximize", None, False), ("minimize", BELOW, True),
        ("minimize", AROUND, False), ("minimize", ABOVE, False),
    ],
)  # fmt: skip
def test_better_is_beyond_chance(direction: str, difference: Interval | None, better: bool) -> None:
    assert outcome("eval/reward", direction, difference).better == better


def test_the_line_of_a_run_that_fell() -> None:
    told = outcome(
        "eval/gold_accuracy", "maximize", ABOVE, stopped_early="it fell, and had not recovered by step 50"
    ).sentence()
    assert told == (
        "kept step 30 of 60: eval/gold_accuracy 58.0 % (+6.0 to step 0, paired 95 % interval 1.2 to 11.3); "
        "stopped early: it fell, and had not recovered by step 50"
    )


def test_doubts_name_what_is_known() -> None:
    assert outcome("eval/reward", "maximize", AROUND).doubt() == (
        "eval/reward, +0.020 to step 0, paired 95 % interval -0.030 to 0.070"
    )
    assert outcome("eval/reward", "maximize", UNKNOWN, n=12).doubt() == (
        "eval/reward, +0.020 to step 0, has no interval on 12 held-out examples"
    )


def test_no_nan_is_written(tmp_path: Path) -> None:
    outcome("eval/loss", "minimize", UNKNOWN, value=float("nan")).write(tmp_path / "selection.json")
    assert Outcome.read(tmp_path / "selection.json").value is None


def test_results_tell_it_of_each_stage_that_was_trained(tmp_path: Path) -> None:
    for stage, metric in (("sft", "eval/loss"), ("rl", "eval/reward")):
        (tmp_path / stage).mkdir()
        outcome(metric, "maximize", None, kept_step=0).write(tmp_path / stage / "selection.json")
    (tmp_path / "reward_model").mkdir()  # a marker alone
    file = io.StringIO()
    show_kept(tmp_path, Console(file=file, width=200))
    assert file.getvalue().splitlines() == [
        "sft: kept step 0 of 60: eval/loss 0.580, where it began",
        "rl: kept step 0 of 60: eval/reward 0.580, where it began. Not shown to be better than the sft model",
    ]
