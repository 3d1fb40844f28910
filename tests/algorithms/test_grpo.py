"""GRPO: groups that say nothing teach nothing."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from stages.algorithms.batch import Batch
from stages.algorithms.grpo import GRPO
from stages.models.logprobs import completion_logprobs
from tests.algorithms.tiny import examples_of, experience_of, make, parts_of, settings_of
from tests.models.tiny import tiny_llama

NO_KL = [("grpo", {"beta": 0.0}), ("rloo", {"kl_coef": 0.0})]


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


def test_a_group_of_one_has_nobody_to_be_better_than():
    with pytest.raises(ValidationError, match="num_generations"):
        settings_of("grpo", num_generations=1)


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
    before = rewarded(algorithm, batch)
    loss = algorithm(batch)
    (loss.total / loss.weight).backward()
    optimizer.step()
    assert rewarded(algorithm, batch) > before


@torch.no_grad()
def rewarded(algorithm: GRPO, batch: Batch) -> float:
    """How likely what was rewarded is, less what was not."""
    return float((completion_logprobs(algorithm.policy, batch.trees).logprobs * batch["advantages"]).sum())


@pytest.mark.parametrize(("name", "no_kl"), NO_KL)
def test_a_policy_that_took_no_step_is_scored_once(name: str, no_kl: dict[str, float]):
    """The pass that trains gives the log-probabilities that a pass of their own would: the gradient is the same."""
    algorithm = make(name, **no_kl)
    (batch,) = experience_of(algorithm, examples_of(name))
    assert "old_logprobs" not in batch.fields
    with torch.no_grad():
        scores = completion_logprobs(
            algorithm.policy, batch.trees, temperature=algorithm.settings.temperature
        )
    scored_before = batch.with_fields(old_logprobs=scores.logprobs)
    found = gradients(algorithm, batch)
    algorithm.on_policy = False
    for ours, theirs in zip(found, gradients(algorithm, scored_before), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "no_kl"), NO_KL)
@pytest.mark.parametrize("updates", [{"num_iterations": 2}, {"num_mini_batches": 2}])
def test_a_policy_that_takes_several_steps_is_held_to_where_it_began(
    name: str, no_kl: dict[str, float], updates: dict[str, int]
):
    algorithm = make(name, **no_kl, **updates)
    batches = experience_of(algorithm, examples_of(name, 4))
    assert len(batches) == 2
    assert all("old_logprobs" in batch.fields for batch in batches)


def gradients(algorithm: GRPO, batch: Batch) -> list[torch.Tensor]:
    algorithm.zero_grad()
    algorithm(batch).total.backward()
    return [p.grad.clone() for p in algorithm.parameters() if p.grad is not None]
