"""KTO: hand-computed losses, labels, and a reference point recomputed with transformers alone."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

import stages.algorithms.kto
from stages.algorithms.batch import batch_of
from stages.algorithms.kto import KTO
from stages.algorithms.pairs import desirable
from stages.config.errors import UserError
from stages.data.examples import Example
from stages.losses.preference import kto
from tests.algorithms.test_dpo import summed_logprob
from tests.algorithms.tiny import SEED, Ranks, examples_of, experience_of, make, remember
from tests.models.tiny import shake, tiny_llama, tree

EXAMPLES = [Example(tree([1, 9], [30, 31, 2]), "", [1.0], {}),
            Example(tree([1, 8, 7], [50, 2], [60, 61, 62, 2]), "", [0.0, 1.0], {}),
            Example(tree([1, 6], [40, 41, 2]), "", [0.0], {})]  # fmt: skip


def test_losses_by_hand():
    """beta 0.5, z0 0.4: good at h 2.4 has 1 - sigmoid(1) = 0.268941; bad at h -1.6 the same, weighted 2."""
    losses = kto(
        torch.tensor([2.4, -1.6, 0.4]), torch.tensor([True, False, True]), torch.full((3,), 0.4),
        beta=0.5, desirable_weight=1.0, undesirable_weight=2.0,
    )  # fmt: skip
    assert losses.tolist() == pytest.approx([0.268941, 0.537883, 0.5], abs=1e-6)


def test_what_is_good():
    rows = [(4, [1.0]), (5, [0.0]), (6, [1.0, 1.0]), (7, [3.0, 2.0, 1.0]), (8, [1.0, 0.0, 0.0])]
    examples = [Example(tree([1], *[[n, 9 + k] for k in range(len(s))]), "", s, {}) for n, s in rows]
    assert desirable(batch_of(examples)).tolist() == [
        True, False, True, True, True, False, False, True, False, False
    ]  # fmt: skip


def test_policy_equal_to_reference_gives_one_half():
    algorithm = make("kto", undesirable_weight=1.0)
    (batch,) = experience_of(algorithm, examples_of("kto"))
    assert not batch["kl"].any()  # to the last bit
    loss = algorithm(batch)
    assert float(loss.total.detach() / loss.weight) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("seed", [5, 6])
def test_moved_policy_against_transformers_and_numpy(seed: int):
    algorithm, reference = make("kto"), tiny_llama()
    assert isinstance(algorithm, KTO)
    remember(algorithm, EXAMPLES)
    shake(algorithm.policy, 0.05, seed)
    (batch,) = experience_of(algorithm, EXAMPLES)
    loss = algorithm(batch)

    def logratio(prompt: list[int], completion: list[int]) -> float:
        return summed_logprob(algorithm.policy, prompt, completion) - summed_logprob(
            reference, prompt, completion
        )

    # prompt by prompt, with every completion of the one that it was drawn to meet
    crossed = [
        logratio(example.tree.prompt.input_ids, node.input_ids)
        for example in batch.examples
        for node in example.mismatched.completions
    ]
    assert len(crossed) == 4
    z0 = max(0.0, float(np.mean(crossed)))
    assert batch["kl"].tolist() == pytest.approx([z0] * 4, abs=1e-4)
    own = [([1, 9], [30, 31, 2]), ([1, 8, 7], [50, 2]), ([1, 8, 7], [60, 61, 62, 2]), ([1, 6], [40, 41, 2])]
    signs, weights = [1, -1, 1, -1], [1.0, 1.5, 1.0, 1.5]
    expected = [
        w / (1 + math.exp(s * 0.3 * (logratio(*pair) - z0)))
        for pair, s, w in zip(own, signs, weights, strict=True)
    ]
    assert float(loss.total.detach()) == pytest.approx(sum(expected), abs=1e-4)
    assert float(loss.weight) == 4
    # divided by all four, each is the mean over its two
    for name, rows in (("chosen", own[::2]), ("rejected", own[1::2])):
        mean = 0.3 * float(np.mean([logratio(*pair) for pair in rows]))
        assert float(loss.metrics[f"objective/rewards/{name}"]) / 4 == pytest.approx(mean, abs=1e-4)


def test_one_side_alone_has_a_mean_and_the_other_none():
    only = [example for example in EXAMPLES if example.scores == [1.0]] * 2
    algorithm = make("kto")
    remember(algorithm, only)
    (batch,) = experience_of(algorithm, only)
    metrics = algorithm(batch).metrics
    assert float(metrics["objective/rewards/chosen"]) == 0  # the policy is the reference
    assert math.isnan(metrics["objective/rewards/rejected"])


def test_microbatches_of_one_token_each_add_up():
    """Fields of a row are cut to the longest completion, those of a completion are not."""
    short = [Example(tree([1, 9 + n], [30 + n]), "", [float(n % 2)], {}) for n in range(4)]
    algorithm = make("kto")
    remember(algorithm, short)
    shake(algorithm.policy, 0.05, 5)
    (batch,) = experience_of(algorithm, short)
    name = "objective/rewards/chosen"
    parts = [float(algorithm(part).metrics[name]) for part in batch.split(3)]
    assert len(parts) == 4
    assert sum(parts) == pytest.approx(float(algorithm(batch).metrics[name]), abs=1e-5)
    assert any(parts)


def test_a_prompt_alone_has_no_other_to_meet():
    with pytest.raises(UserError, match="there is one prompt") as error:
        make("kto").prepare(EXAMPLES[:1], 0)
    assert "\n" not in str(error.value)


def test_each_prompt_meets_all_completions_of_one_other_prompt():
    examples = [
        Example(
            tree([1, 9 + n], *([[30 + 2 * n + k, 2] for k in range(1 + n % 2)])),
            "",
            [1.0, 0.0][: 1 + n % 2],
            {},
        )
        for n in range(9)
    ]
    prepared = make("kto").prepare(examples, 4)
    partners = []
    for before, after in zip(examples, prepared, strict=True):
        assert after.mismatched.prompt == before.tree.prompt
        met = [node.input_ids for node in after.mismatched.completions]
        (partner,) = [k for k, e in enumerate(examples) if [n.input_ids for n in e.tree.completions] == met]
        assert examples[partner] is not before
        partners.append(partner)
    assert sorted(partners) == [*range(9)]  # everyone's completions count once
    assert make("kto").prepare(examples, 4) == prepared
    assert make("kto").prepare(examples, 5) != prepared


def test_no_mismatched_sequence_is_longer_than_an_example():
    """Ten tokens at most; the prompt of nine with the completion of nine would have 18."""
    examples = [Example(tree([1, 9], [30] * 8), "", [1.0], {}), Example(tree([1] * 9, [40]), "", [0.0], {})]
    first, second = make("kto").prepare(examples, 0)
    assert [len(node.input_ids) for node in first.mismatched.completions] == [1]
    assert [len(node.input_ids) for node in second.mismatched.completions] == [1]
    assert second.mismatched.completions[0].loss_mask == [True]


def moved() -> tuple[KTO, list[Example]]:
    """A policy far from its reference, and examples that it prepared."""
    algorithm, examples = make("kto"), examples_of("kto")
    prepared = algorithm.prepare(examples, SEED)
    remember(algorithm, examples)
    shake(algorithm.policy, 0.05, 1)
    return algorithm, prepared


@pytest.mark.parametrize("share", [4, 2])
def test_the_reference_point_is_that_of_all_processes(share: int, monkeypatch: pytest.MonkeyPatch):
    """Above 0, or the comparison would be of zeros; one process has two of the eight prompts."""
    algorithm, examples = moved()
    with torch.no_grad():
        (whole,) = algorithm.experience(batch_of(examples))
        assert float(whole["kl"][0]) > 0.1
        ranks = Ranks(2)
        monkeypatch.setattr(stages.algorithms.kto, "sum_over_ranks", ranks.sum)
        copies = [copy.deepcopy(algorithm) for _ in range(2)]

        def work(rank: int) -> float:
            with torch.no_grad():
                (part,) = copies[rank].experience(batch_of(examples[share:] if rank else examples[:share]))
            return float(part["kl"][0])

        assert ranks.run(work) == pytest.approx([float(whole["kl"][0])] * 2, rel=1e-5)


def test_the_reference_point_is_above_zero_for_one_of_the_seeds():
    """Else the test above would compare zeros."""
    found = []
    for seed in (5, 6):
        algorithm = make("kto")
        remember(algorithm, EXAMPLES)
        shake(algorithm.policy, 0.05, seed)
        found.append(float(experience_of(algorithm, EXAMPLES)[0]["kl"][0]))
    assert max(found) > 0.01
