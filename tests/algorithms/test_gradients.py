"""The gradient does not depend on how a batch is split: one microbatch, four, or two ranks (in threads)."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

import stages.algorithms.ppo
import stages.algorithms.rollouts
import stages.training.step
from stages.algorithms.batch import batch_of
from stages.data.examples import Example
from stages.training.step import StepResult, optimizer_step
from stages.trees import Node, Tree
from tests.algorithms.tiny import (
    ALGORITHMS,
    RankAccelerator,
    Ranks,
    Recorder,
    Replay,
    examples_of,
    experience_of,
    make,
    replay,
    settings_of,
)
from tests.models.tiny import shake

LARGE = 100_000
# without a KL, and with one update, GRPO and RLOO score completions with the pass that trains
WITHOUT_KL = {"grpo": {"beta": 0.0}, "rloo": {"kl_coef": 0.0}}
KINDS = [*ALGORITHMS, *(f"{name} without KL" for name in WITHOUT_KL)]


def setting(name: str):
    """An algorithm and its examples; online, with completions that every rank can be given again."""
    name, _, free = name.partition(" ")
    algorithm = make(name, **(WITHOUT_KL[name] if free else {}))
    examples = examples_of(name)
    if name in ("grpo", "rloo", "ppo"):
        replay(algorithm, Replay(algorithm.parts.sampler, examples, settings_of(name)))
    return algorithm, examples


def one_process(name: str, max_tokens: int) -> tuple[StepResult, dict, int]:
    algorithm, examples = setting(name)
    (batch,) = experience_of(algorithm, examples)
    # The policy moves after its experience, so that ratios and KL are not those of step 0.
    shake(algorithm, 0.02)
    recorder = Recorder(algorithm)
    accelerator = Accelerator(cpu=True)
    result = optimizer_step(accelerator, algorithm, recorder, batch, max_tokens, 1e9)
    return result, recorder.gradients, len(batch.split(max_tokens))


def two_ranks(name: str, monkeypatch, max_tokens: int, share: int) -> list[tuple[StepResult, dict]]:
    """The first `share` examples on rank 0, the others on rank 1; experience is made on each rank."""
    algorithm, examples = setting(name)
    ranks = Ranks(2)
    monkeypatch.setattr(stages.training.step, "sum_over_ranks", ranks.sum)
    monkeypatch.setattr(stages.training.step, "max_over_ranks", ranks.max)
    monkeypatch.setattr(stages.algorithms.ppo, "sum_over_ranks", ranks.sum)
    monkeypatch.setattr(stages.algorithms.rollouts, "sum_over_ranks", ranks.sum)
    monkeypatch.setattr(stages.algorithms.kto, "sum_over_ranks", ranks.sum)
    copies = [copy.deepcopy(algorithm) for _ in range(2)]

    def work(rank: int):
        mine = examples[:share] if rank == 0 else examples[share:]
        (batch,) = experience_of(copies[rank], mine)
        shake(copies[rank], 0.02)
        recorder = Recorder(copies[rank])
        accelerator = RankAccelerator(ranks, copies[rank])
        result = optimizer_step(accelerator, copies[rank], recorder, batch, max_tokens, 1e9)
        return result, recorder.gradients

    return ranks.run(work)


def assert_same(result: StepResult, gradients: dict, expected: StepResult, expected_gradients: dict) -> None:
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.grad_norm, expected.grad_norm, rtol=1e-5, atol=1e-6)
    assert result.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", KINDS)
def test_four_microbatches(name: str):
    expected, gradients, count = one_process(name, LARGE)
    assert count == 1
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    tokens = {
        "sft": 24,
        "reward_model": 36,
        "likelihood": 36,
        "dpo": 36,
        "kto": 36,
        "grpo": 56,
        "rloo": 56,
        "ppo": 56,
    }[name.split()[0]]
    result, split_gradients, count = one_process(name, tokens)
    assert count >= 4
    assert_same(result, split_gradients, expected, gradients)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("max_tokens", "share"), [(LARGE, 4), (50, 2)])
def test_two_ranks(name: str, max_tokens: int, share: int, monkeypatch):
    """Also with 2 examples against 6, so that one rank runs empty microbatches beside the other's last ones."""
    expected, gradients, _ = one_process(name, LARGE)
    for result, rank_gradients in two_ranks(name, monkeypatch, max_tokens, share):
        assert_same(result, rank_gradients, expected, gradients)


def test_gradient_norm_is_cut_to_the_maximum():
    algorithm, examples = setting("sft")
    norms = []
    for limit in (1e9, 0.5):
        recorder = Recorder(algorithm)
        result = optimizer_step(Accelerator(cpu=True), algorithm, recorder, batch_of(examples), LARGE, limit)
        norms.append(
            (float(result.grad_norm), sum(float(g.pow(2).sum()) for g in recorder.gradients.values()) ** 0.5)
        )
    assert norms[0][0] == pytest.approx(norms[0][1])
    assert norms[0][0] > 0.5
    assert norms[1] == (pytest.approx(norms[0][0]), pytest.approx(0.5, rel=1e-5))  # reported before the cut


def test_rows_without_a_target_weigh_nothing():
    """A cut may leave a row no token to learn from; neither it nor a batch of such rows makes a nan."""
    algorithm, examples = setting("sft")
    empty = Example(Tree(Node([1, 9], [False] * 2), [Node([8, 7, 6], [False] * 3)]), "", None, {})
    gradients = []
    for rows in (examples, [empty, *examples], [empty, empty]):
        recorder = Recorder(algorithm)
        result = optimizer_step(Accelerator(cpu=True), algorithm, recorder, batch_of(rows), LARGE, 1e9)
        gradients.append(recorder.gradients)
    assert float(result.loss) == 0
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
        assert not gradients[2].get(name, torch.zeros(1)).any()
