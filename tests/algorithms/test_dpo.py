"""DPO and the reward model: pairs, log 2 at the start, and numbers recomputed with transformers alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.algorithms.batch import batch_of
from stages.algorithms.pairs import preference_pairs
from stages.data.examples import Example
from stages.models.load import add_adapter
from tests.algorithms.tiny import examples_of, experience_of, make, remember
from tests.models.tiny import lora, shake, tiny_llama, tree


def test_pairs_of_rankings():
    examples = [
        Example(tree([1], [5], [6]), "", [0.0, 1.0], {}),
        Example(tree([1], [5], [6], [7]), "", [2.0, 0.5, 0.5], {}),
        Example(tree([1], [5], [6]), "", [1.0, 1.0], {}),
    ]
    chosen, rejected = preference_pairs(batch_of(examples))
    # rows 0 1 | 2 3 4 | 5 6: 1 beats 0; 2 beats 3 and 4, which tie; 5 and 6 tie
    assert (chosen.tolist(), rejected.tolist()) == ([1, 2, 2], [0, 3, 4])


@pytest.mark.parametrize("on", [True, False])
def test_policy_equal_to_reference_gives_log_2(on: bool):
    algorithm = make("dpo", add_adapter(tiny_llama(), lora(on=on)))
    (batch,) = experience_of(algorithm, examples_of("dpo"))
    loss = algorithm(batch)
    assert float(loss.total.detach() / loss.weight) == pytest.approx(math.log(2), abs=1e-6)
    assert float(loss.metrics["objective/rewards/margin"]) == 0  # so KL is exactly 0 too
    assert float(loss.metrics["train/accuracy"]) == 0


def summed_logprob(model, prompt: list[int], completion: list[int]) -> float:
    logits = model(torch.tensor([prompt + completion])).logits[0].detach().double().numpy()
    rows = logits[len(prompt) - 1 : -1]
    return float((rows[np.arange(len(completion)), completion] - np.logaddexp.reduce(rows, axis=1)).sum())


def test_moved_policy_against_transformers_and_numpy():
    examples = [Example(tree([1, 9], [30, 31, 2], [40, 2]), "", [1.0, 0.0], {}),
                Example(tree([1, 8, 7], [50, 2], [60, 61, 62, 2]), "", [0.0, 1.0], {})]  # fmt: skip
    algorithm, reference = make("dpo"), tiny_llama()
    remember(algorithm, examples)
    shake(algorithm.policy, 0.05)
    (batch,) = experience_of(algorithm, examples)
    loss = algorithm(batch)
    ratios = [[summed_logprob(algorithm.policy, e.tree.prompt.input_ids, c.input_ids)
               - summed_logprob(reference, e.tree.prompt.input_ids, c.input_ids) for c in e.tree.completions]
              for e in examples]  # fmt: skip
    margins = 0.3 * np.array([ratios[0][0] - ratios[0][1], ratios[1][1] - ratios[1][0]])
    assert float(loss.total.detach()) == pytest.approx(float(np.log1p(np.exp(-margins)).sum()), abs=1e-4)
    assert float(loss.weight) == 2
    assert float(loss.metrics["objective/rewards/margin"]) == pytest.approx(float(margins.sum()), abs=1e-4)
    assert float(loss.metrics["train/accuracy"]) == int((margins > 0).sum())


def test_reward_model_scores_the_last_token_and_agrees_with_transformers():
    algorithm = make("reward_model")
    examples = examples_of("reward_model", 4)
    model = algorithm.policy.model
    expected = []
    for example in examples:
        for completion in example.tree.completions:
            ids = torch.tensor([example.tree.prompt.input_ids + completion.input_ids])
            states = model.model(ids).last_hidden_state[0, -1]
            expected.append(float((states @ model.score.weight[0]).detach()))
    assert algorithm.policy(batch_of(examples).trees).tolist() == pytest.approx(expected, abs=1e-4)
    loss = algorithm(batch_of(examples))
    # scores 1 0 | 0 1 1 | 1 0 | 0 1 1: rows 0>1, 3>2, 4>2, 5>6, 8>7, 9>7
    margins = np.array(
        [expected[c] - expected[r] for c, r in [(0, 1), (3, 2), (4, 2), (5, 6), (8, 7), (9, 7)]]
    )
    assert float(loss.weight) == 6
    assert float(loss.total.detach()) == pytest.approx(float(np.logaddexp(0, -margins).sum()), abs=1e-4)
    assert float(loss.metrics["train/accuracy"]) == int((margins > 0).sum())


def test_a_microbatch_without_pairs_weighs_nothing():
    tie = [Example(tree([1, 9], [30, 2], [40, 2]), "", [1.0, 1.0], {})]
    for name in ("dpo", "reward_model"):
        algorithm = make(name)
        (batch,) = experience_of(algorithm, tie)
        loss = algorithm(batch)
        assert (float(loss.total.detach()), float(loss.weight)) == (0.0, 0.0)
        loss.total.backward()
