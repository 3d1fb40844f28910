"""Which completions are scored, how often, and under what name they are found again."""

from __future__ import annotations

from types import MethodType

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from stages.models.compiled import compile_layers
from stages.models.load import add_adapter
from stages.models.reference_table import (
    ReferenceTable,
    completion_keys,
    microbatches_once,
    reference_digest,
)
from stages.trees import Node, Tree
from tests.models.tiny import lora, shake, tiny_llama, tree


def test_a_microbatch_of_which_all_is_known_is_not_scored_again():
    """Under a budget of 6 a tree each; of the second request one has a completion that is new, and stays whole."""
    first = [tree([1, 9], [30], [31, 2]), tree([1, 8], [30])]
    second = [tree([1, 9], [31, 2], [32]), tree([1, 8], [30])]
    assert microbatches_once([first, second, first], 6) == [[first[0]], [first[1]], [second[0]]]
    table = ReferenceTable(tiny_llama())
    table.fill(completion_keys([*first, *second]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert table.logprobs(second).tolist() == [2.0, 5.0, 3.0]  # of equal ones the first


def test_a_request_is_split_as_a_batch_is():
    trees = [tree([1, 9], [30]), tree([1, 8], [30, 31, 32]), tree([1, 7], [30, 31])]
    # the longest first; under a budget of 9 in two groups, which are alike as 5 and 4 + 3 tokens
    assert microbatches_once([trees], 9) == [[trees[1]], [trees[2], trees[0]]]


def test_a_key_tells_prompts_completions_and_masks_apart():
    masked = Tree(Node([1, 2], [False] * 2), [Node([3, 4], [True, False])])
    trees = [tree([1, 2], [3, 4]), tree([1, 2, 3], [4]), tree([1], [2, 3, 4]), masked, tree([1, 2], [4, 3])]
    assert len(set(completion_keys(trees))) == 5
    pair = tree([1, 2], [3, 4], [5])
    assert list(completion_keys([pair])) == [
        *completion_keys(trees[:1]),
        *completion_keys([tree([1, 2], [5])]),
    ]


def test_values_are_found_in_the_order_of_the_question():
    table = ReferenceTable(tiny_llama())
    trees = [tree([1, 9], [30], [31, 2]), tree([1, 8], [32])]
    table.fill(completion_keys(trees), torch.tensor([-1.0, -2.0, -3.0]))
    assert table.logprobs([trees[1], tree([1, 9], [31, 2])]).tolist() == [-3.0, -2.0]
    with pytest.raises(KeyError):
        table.logprobs([tree([1, 8], [31])])


def test_the_digest_is_of_weights_and_configuration_but_not_of_adapters():
    model = tiny_llama()
    digest = reference_digest(model)
    assert reference_digest(tiny_llama()) == digest
    assert reference_digest(tiny_llama(rms_norm_eps=1e-3)) != digest
    assert reference_digest(tiny_llama(seed=1)) != digest
    shake(model, 1e-3)
    assert reference_digest(model) != digest
    policies = [add_adapter(tiny_llama(seed), lora(lora_r=rank)) for seed, rank in [(0, 4), (0, 8), (1, 4)]]
    shake(policies[0])
    first, second, third = map(reference_digest, policies)
    assert first == second != third


def test_the_digest_is_of_the_code_that_modules_run():
    """Kernels may be put in place of a loaded model's own."""
    model = tiny_llama()
    digest = reference_digest(model)
    norm = model.model.norm
    norm.forward = MethodType(LlamaRMSNorm.forward, norm)
    assert reference_digest(model) == digest
    compile_layers(model)
    assert reference_digest(model) != digest
    norm.forward = MethodType(Qwen3RMSNorm.forward, norm)
    assert reference_digest(model) != reference_digest(tiny_llama())
