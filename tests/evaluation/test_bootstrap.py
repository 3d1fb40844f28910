"""Intervals whose right bounds are known."""

import pytest

from stages.evaluation.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(samples=10_000, confidence=0.95, seed=1)


@pytest.mark.parametrize("values", [[0.25] * 7, [0.25]])
def test_values_that_agree_give_no_interval(values: list[float]) -> None:
    """Not one without width, which would say that other prompts are known to give the same."""
    assert BOOTSTRAP.mean(values) == {"mean": 0.25, "low": None, "high": None}
    assert BOOTSTRAP.ratio([0.5, 1.0], [2.0, 4.0]) == {"mean": 0.25, "low": None, "high": None}


def test_two_values() -> None:
    # A resample of (0, 1) has the mean 0 or 1 in a quarter of the cases each: more than the tails of 2.5 %.
    assert BOOTSTRAP.mean([0.0, 1.0]) == {"mean": 0.5, "low": 0.0, "high": 1.0}


def test_an_accuracy_has_the_width_of_its_binomial() -> None:
    # 1.96 * sqrt(0.5 * 0.5 / 200) = 0.0693
    interval = BOOTSTRAP.mean([1.0, 0.0] * 100)
    assert interval["mean"] == 0.5
    assert interval["low"] == pytest.approx(0.4307, abs=0.006)
    assert interval["high"] == pytest.approx(0.5693, abs=0.006)


def test_a_ratio_weighs_each_prompt_by_its_tokens() -> None:
    # 2 nats over 1 token and 1 nat over 3: 3 nats over 4 tokens, between 1/3 and 2.
    interval = BOOTSTRAP.ratio([2.0, 1.0], [1.0, 3.0])
    assert interval == {"mean": 0.75, "low": pytest.approx(1 / 3), "high": 2.0}


def test_the_seed_alone_decides() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0] * 9
    assert BOOTSTRAP.mean(values) == BOOTSTRAP.mean(values)
    assert BOOTSTRAP.mean(values)["mean"] == Bootstrap(500, 0.95, 2).mean(values)["mean"]


def test_it_is_resampled_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.evaluation.bootstrap.CHUNK", 7)  # 3 resamples of 2 values at a time
    assert Bootstrap(1000, 0.95, 1).mean([0.0, 1.0]) == {"mean": 0.5, "low": 0.0, "high": 1.0}
