"""Held-out losses are means over units, however they are split."""

from __future__ import annotations

import pytest

from stages.training.heldout import mean_losses
from tests.algorithms.tiny import examples_of, make


@pytest.mark.parametrize("name", ["sft", "reward_model"])
def test_split_changes_nothing(name: str):
    algorithm, examples = make(name), examples_of(name)
    whole, parts = mean_losses(algorithm, examples, 100_000), mean_losses(algorithm, examples, 20)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert "eval/loss" in whole
    assert ("eval/accuracy" in whole) == (name == "reward_model")


def test_nothing_without_examples():
    assert mean_losses(make("sft"), [], 100) == {}
