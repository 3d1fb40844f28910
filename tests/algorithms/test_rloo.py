"""RLOO: the baseline by hand, the KL in the reward, and the on-policy gradient recomputed with transformers alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stages.advantages import leave_one_out
from stages.algorithms.rloo import RLOO
from tests.algorithms.tiny import examples_of, experience_of, make, parts_of, settings_of
from tests.models.tiny import shake, tiny_llama


def test_leave_one_out_by_hand():
    """1 less the mean of 0 and 5; 0 less that of 1 and 5; 5 less that of 1 and 0."""
    assert leave_one_out(torch.tensor([[1.0, 0.0, 5.0], [2.0, 2.0, 2.0]])).tolist() == [
        [-1.5, -3.0, 4.5], [0.0, 0.0, 0.0]
    ]  # fmt: skip


def test_the_kl_is_part_of_the_reward():
    """No reward but the KL: what the policy has made likelier than the reference is pushed back."""
    policy = tiny_llama()
    parts = parts_of(policy, lambda _, trees: [0.0] * sum(len(t.completions) for t in trees))
    algorithm = RLOO(settings_of("rloo", kl_coef=0.5), parts)
    shake(policy, 0.05)
    (batch,) = experience_of(algorithm, examples_of("rloo"))
    kl = torch.cat(algorithm.observed["objective/kl_k1"]).view(-1, 4)
    expected = -0.5 * (kl - (kl.sum(1, keepdim=True) - kl) / 3)
    assert kl.abs().max() > 0.1
    # a completion that was cut off costs missing_eos_penalty, which is 0 here
    found = batch["advantages"].view(-1, 4)
    found, expected = (
        rows[rows[:, 0].argsort()] for rows in (found, expected)
    )  # minibatches shuffle the prompts
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradient_is_that_of_reinforce():
    algorithm = make("rloo", kl_coef=0.0)
    (batch,) = experience_of(algorithm, examples_of("rloo", 3))
    algorithm(batch).total.backward()
    assert "ref_logprobs" not in batch.fields
    model = tiny_llama()
    row = 0
    for one in batch.trees:
        prompt = one.prompt.input_ids
        for node in one.completions:
            logits = model(torch.tensor([prompt + node.input_ids])).logits[0, len(prompt) - 1 : -1] / 0.7
            loss = F.cross_entropy(logits, torch.tensor(node.input_ids), reduction="sum")
            (loss * batch["advantages"][row]).backward()
            row += 1
    assert max(float(p.grad.abs().max()) for p in model.parameters()) > 1e-3
    for ours, theirs in zip(algorithm.policy.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_a_group_of_one_has_no_baseline():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        settings_of("rloo", num_generations=1)
