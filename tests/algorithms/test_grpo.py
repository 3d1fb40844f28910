"""GRPO: groups that say nothing teach nothing."""

from __future__ import annotations

import pytest
import torch

from stages.algorithms.grpo import GRPO
from tests.algorithms.tiny import examples_of, experience_of, make, parts_of, settings_of
from tests.models.tiny import tiny_llama


def gradient_size(algorithm: GRPO) -> float:
    (batch,) = experience_of(algorithm, examples_of("grpo"))
    algorithm(batch).total.backward()
    return max(float(p.grad.abs().max()) for p in algorithm.parameters() if p.grad is not None)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_constant_group_has_no_gradient(beta: float):
    """0.7 everywhere, whose mean is rounded. At step 0 the KL term has none either: k3's slope at 0 is 0, and
    policy and reference differ by the rounding of their passes."""
    parts = parts_of(tiny_llama(), lambda _, trees: [0.7] * sum(len(t.completions) for t in trees))
    algorithm = GRPO(settings_of("grpo", beta=beta, num_generations=7), parts)
    assert gradient_size(algorithm) < 1e-5
    assert torch.cat(algorithm.observed["objective/equal_group_share"]).mean() == 1


def test_group_of_one_has_no_gradient():
    assert gradient_size(GRPO(settings_of("grpo", num_generations=1), parts_of(tiny_llama()))) == 0


def test_unequal_group_has_one():
    assert gradient_size(make("grpo")) > 0.01


def test_advantages_belong_to_their_own_completions():
    """The reward is the length: within each group, longer means better."""
    parts = parts_of(
        tiny_llama(), lambda _, trees: [float(len(c.input_ids)) for t in trees for c in t.completions]
    )
    algorithm = GRPO(settings_of("grpo", beta=0.0), parts)
    (batch,) = experience_of(algorithm, examples_of("grpo"))
    row = 0
    for one in batch.trees:
        lengths = torch.tensor([float(len(c.input_ids)) for c in one.completions])
        group = batch["advantages"][row : row + 4]
        assert torch.equal(group[:, 0].argsort(stable=True), lengths.argsort(stable=True))
        assert ((group != 0).sum(1) <= lengths).all()
        row += 4
    assert "ref_logprobs" not in batch.fields  # beta 0 computes no reference


def test_a_step_makes_what_is_rewarded_likelier():
    algorithm = make("grpo", beta=0.0)
    (batch,) = experience_of(algorithm, examples_of("grpo"))
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.001)
    before = algorithm(batch)
    (before.total / before.weight).backward()
    optimizer.step()
    with torch.no_grad():
        after = algorithm(batch)
    assert float(after.total) < float(before.total.detach())
