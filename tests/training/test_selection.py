"""Which step is kept, and when training stops: by numbers alone."""

from __future__ import annotations

import json
import math

import pytest

from stages.training.answers import GOLD, REWARD
from stages.training.evaluation import LOSS, Criterion, Evaluation
from stages.training.selection import Selection
from tests.algorithms.tiny import settings_of


def selection(criterion: Criterion, patience: int | None = None, keep: str = "best") -> Selection:
    return Selection(criterion, settings_of("sft", keep=keep, early_stopping_patience=patience))


def right(count: int, of: int = 100) -> Evaluation:
    """The first `count` answers are right."""
    return Evaluation({}, [1.0] * count + [0.0] * (of - count), [1.0] * of)


def loss(mean: float, of: int = 4) -> Evaluation:
    """Every block has 2 tokens."""
    return Evaluation({}, [2 * mean] * of, [2.0] * of)


def steps(chosen: Selection, *evaluations: Evaluation) -> list[bool]:
    """One every 10 steps; whether each was the best so far. As the loop does, nothing comes after the last."""
    return [chosen.update(10 * index, evaluation) for index, evaluation in enumerate(evaluations)]


def test_the_highest_accuracy_is_kept_and_of_equals_the_first() -> None:
    chosen = selection(GOLD)
    assert steps(chosen, right(52), right(50), right(58), right(58), right(57)) == [
        True, False, True, False, False,
    ]  # fmt: skip
    outcome = chosen.outcome(40, 60)
    assert (outcome.kept_step, outcome.value, outcome.start_value, outcome.n) == (20, 0.58, 0.52, 100)
    assert outcome.direction == "maximize" and outcome.stopped_early is None
    assert outcome.better  # six gained, none lost
    assert outcome.sentence() == (
        "kept step 20 of 60: eval/gold_accuracy 58.0 % (+6.0 to step 0, paired 95 % interval 2.1 to 12.5)"
    )


def test_the_lowest_loss_is_kept() -> None:
    chosen = selection(LOSS)
    assert steps(chosen, loss(3.0), loss(1.0), loss(2.0)) == [True, True, False]
    outcome = chosen.outcome(20, 20)
    assert (outcome.kept_step, outcome.value, outcome.direction) == (10, 1.0, "minimize")
    assert outcome.difference == {"mean": -2.0, "low": None, "high": None}  # four blocks: no interval
    assert not outcome.better
    assert outcome.sentence() == "kept step 10 of 20: eval/loss 1.000 (-2.000 to step 0)"


def test_a_lower_loss_beyond_chance_is_better() -> None:
    chosen = selection(LOSS)
    spread = [2.0 + 0.01 * index for index in range(32)]
    steps(chosen, loss(3.0, 32), Evaluation({}, spread, [2.0] * 32))
    assert chosen.outcome(10, 10).better


def changed(gained: int, lost: int) -> Evaluation:
    """Of right(40, 64): so many that were wrong are right, and the other way round."""
    values = [0.0] * lost + [1.0] * (40 - lost) + [1.0] * gained + [0.0] * (24 - gained)
    return Evaluation({}, values, [1.0] * 64)


def test_chance_stops_nothing_and_a_fall_does() -> None:
    """5 lost and 3 gained of 64 prompts may be chance (Tango: -13.3 to 6.5), 14 and 2 are not (-31.1 to -7.4)."""
    chosen = selection(GOLD)
    assert steps(chosen, right(40, 64), changed(3, 5), changed(3, 5)) == [True, False, False]
    assert chosen.stopped_early is None
    chosen.update(30, changed(2, 14))
    assert chosen.stopped_early is None  # once is usual
    chosen.update(40, changed(2, 14))
    assert chosen.stopped_early == "it fell, and had not recovered by step 40"
    outcome = chosen.outcome(40, 60)
    assert (outcome.kept_step, outcome.last_step, outcome.difference) == (0, 40, None)
    assert not outcome.better
    assert outcome.sentence() == (
        "kept step 0 of 60: eval/gold_accuracy 62.5 %, where it began; "
        "stopped early: it fell, and had not recovered by step 40"
    )
    assert outcome.doubt() == "no step has a better eval/gold_accuracy than step 0"


def test_a_fall_is_from_the_best_and_not_from_the_start() -> None:
    chosen = selection(GOLD)
    steps(chosen, right(30), right(60), right(40), right(40))
    assert chosen.stopped_early == "it fell, and had not recovered by step 30"
    assert chosen.outcome(30, 60).kept_step == 10


def test_a_fall_that_recovers_stops_nothing() -> None:
    """GRPO on a right reward: 44 %, 38 %, 51 %, 61 % of answers after 0, 10, 20 and 30 steps."""
    chosen = selection(GOLD)
    steps(chosen, right(50), right(20), right(48), right(20), right(60))
    assert chosen.stopped_early is None and chosen.fallen == 0
    assert chosen.outcome(40, 60).kept_step == 40


def test_rewards_fall_beyond_chance_too() -> None:
    """Each of 32 answers loses about 1; one answer that loses 32 is chance."""
    start = Evaluation({}, [0.0] * 32, [1.0] * 32)
    for values, stops in (([-1.0] * 31 + [-1.1], True), ([0.0] * 31 + [-32.0], False)):
        chosen = selection(REWARD)
        fallen = Evaluation({}, values, [1.0] * 32)
        steps(chosen, start, fallen, fallen)
        assert (chosen.stopped_early == "it fell, and had not recovered by step 20") == stops


def test_a_loss_that_rises_stops_by_patience_alone() -> None:
    chosen = selection(LOSS, patience=2)
    assert steps(chosen, loss(3.0), loss(1.0), loss(9.0)) == [True, True, False]
    assert chosen.stopped_early is None
    chosen.update(30, loss(0.9))  # the count begins again
    for step in (40, 50):
        assert chosen.stopped_early is None
        chosen.update(step, loss(0.9))
    assert chosen.stopped_early == "no better in 2 evaluations, by step 50"


def test_keep_last_goes_to_the_end_and_keeps_it() -> None:
    chosen = selection(GOLD, patience=1, keep="last")
    assert steps(chosen, right(80), right(60), right(20)) == [False, False, False]
    assert chosen.stopped_early is None and chosen.best_step is None
    outcome = chosen.outcome(20, 20)
    assert (outcome.kept_step, outcome.value) == (20, 0.2)
    assert outcome.difference is not None and outcome.difference["mean"] == pytest.approx(-0.6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_kept_while_there_is_one(bad: float) -> None:
    chosen = selection(LOSS)
    assert steps(chosen, loss(bad), loss(2.0), loss(bad)) == [True, True, False]
    assert chosen.outcome(20, 20).kept_step == 10
    only = selection(LOSS)
    steps(only, loss(bad), loss(bad))
    assert only.outcome(10, 10).kept_step == 0


def test_without_held_out_data_the_last_step_is_kept_and_doubted() -> None:
    chosen = selection(GOLD)
    assert steps(chosen, Evaluation(), Evaluation()) == [False, False]
    outcome = chosen.outcome(10, 10)
    assert (outcome.kept_step, outcome.metric, outcome.better) == (10, None, False)
    assert outcome.sentence() == "kept step 10 of 10: nothing is held out to choose by"
    assert outcome.doubt() == "nothing was measured on held-out data"


def test_more_that_may_be_chance_is_doubted_with_its_interval() -> None:
    chosen = selection(GOLD)
    steps(chosen, right(52), right(54))
    outcome = chosen.outcome(10, 10)
    assert not outcome.better
    assert outcome.doubt() == ("eval/gold_accuracy, +2.0 to step 0, paired 95 % interval -1.8 to 7.0")


def test_its_state_survives_json_to_the_last_bit() -> None:
    """Killed between the two bad evaluations: the second one still stops it, and against the same best."""
    whole, cut = (selection(REWARD, patience=2) for _ in range(2))
    values = [[1 / 3] * 40, [0.1 + index / 7 for index in range(40)], [0.2] * 40, [0.3] * 40]
    evaluations = [Evaluation({}, each, [1.0] * 40) for each in values]
    steps(whole, *evaluations)
    steps(cut, *evaluations[:3])
    resumed = selection(REWARD, patience=2)
    resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
    resumed.update(30, evaluations[3])
    assert whole.stopped_early and resumed.stopped_early == whole.stopped_early
    assert resumed.outcome(30, 60) == whole.outcome(30, 60)
    assert resumed.best_step == 10
