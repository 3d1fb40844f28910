"""Held-out losses are means over units, however they are split."""

from __future__ import annotations

import pytest

from stages.training.evaluation import Evaluation
from stages.training.heldout import mean_losses
from tests.algorithms.tiny import SEED, examples_of, make, remember


@pytest.mark.parametrize("name", ["sft", "reward_model"])
def test_split_changes_nothing(name: str):
    algorithm, examples = make(name), examples_of(name)
    whole, parts = mean_losses(algorithm, examples, 100_000), mean_losses(algorithm, examples, 20)
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert parts.values == pytest.approx(whole.values, rel=1e-5)
    assert "eval/loss" in whole.metrics
    assert ("eval/accuracy" in whole.metrics) == (name == "reward_model")


@pytest.mark.parametrize("name", ["sft", "reward_model", "dpo", "kto"])
def test_each_block_s_loss_is_that_of_its_examples(name: str):
    """70 examples in 32 blocks: the first of two, the last of three."""
    algorithm = make(name)
    examples = algorithm.prepare(examples_of(name, 70), SEED)
    remember(algorithm, examples_of(name, 70))
    found = mean_losses(algorithm, examples, 4096)
    assert len(found.values) == len(found.weights) == 32
    assert found.metrics["eval/loss"] == pytest.approx(sum(found.values) / sum(found.weights))
    units = {
        "sft": lambda rows: sum(sum(e.tree.completions[0].loss_mask) for e in rows),
        "kto": lambda rows: 5,
    }
    pairs = {
        "reward_model": lambda rows: 3,
        "dpo": lambda rows: 3,
    }  # of a ranking of two, and of three with a tie
    assert found.weights[0] == (units | pairs)[name](examples[:2])
    alone = mean_losses(algorithm, examples[:2], 4096)
    if name != "kto":  # whose reference point is of all that is evaluated
        assert found.values[0] == pytest.approx(sum(alone.values), rel=1e-4)


def test_nothing_without_examples():
    assert mean_losses(make("sft"), [], 100) == Evaluation()
