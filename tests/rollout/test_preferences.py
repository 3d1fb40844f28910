"""Preferences from samples: distinct, ranked by the verifier, and only where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stages.data.examples import Example
from stages.data.settings import SamplingSettings
from stages.rollout.preferences import rank_samples
from stages.rollout.sampler import Sampler
from stages.trees import Tree
from tests.models.tiny import EOS, tiny_llama, tree

SETTINGS = SamplingSettings(num_generations=6, temperature=1.5, max_new_tokens=12)


def low(examples: Sequence[Example], trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
    """Gold: the first token is below 48."""
    return torch.tensor([float(c.input_ids[0] < 48) for t in trees for c in t.completions])


def rank(examples: list[Example], gold=low, settings: SamplingSettings = SETTINGS) -> list[Example]:
    torch.manual_seed(0)
    return rank_samples(examples, Sampler(tiny_llama(), [EOS, *range(48, 97)]), settings, gold)


def prompts(count: int) -> list[Example]:
    return [
        Example(tree([1, 7 + index]), f"prompt {index}", None, {"answer": index}) for index in range(count)
    ]


def test_samples_are_distinct_scored_and_belong_to_their_prompt():
    ranked = rank(prompts(12))
    assert 6 <= len(ranked) <= 12
    for example in ranked:
        ids = [tuple(c.input_ids) for c in example.tree.completions]
        assert len(set(ids)) == len(ids) <= 6
        assert example.scores == [float(first < 48) for first, *_ in ids]
        assert set(example.scores) == {0.0, 1.0}
        assert example.tree.prompt.input_ids == [1, 7 + example.columns["answer"]]
        assert example.prompt == f"prompt {example.columns['answer']}"
        assert all(all(c.loss_mask) for c in example.tree.completions)


def test_own_completions_stay_and_are_scored_too():
    own = Example(tree([1, 9], [5, EOS]), "", [1.0], {})

    def right(_: Sequence[Example], trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
        return torch.tensor([float(c.input_ids == [5, EOS]) for t in trees for c in t.completions])

    (ranked,) = rank([own], right)
    assert ranked.tree.completions[0].input_ids == [5, EOS]
    assert ranked.scores == [1.0, *[0.0] * (len(ranked.tree.completions) - 1)]


def test_a_sample_without_an_end_is_never_preferred():
    short = SamplingSettings(num_generations=6, temperature=1.5, max_new_tokens=2)
    ranked = rank(prompts(12), lambda _, trees: torch.ones(sum(len(t.completions) for t in trees)), short)
    assert ranked
    for example in ranked:
        ended = [float(c.input_ids[-1] in {EOS, *range(48, 97)}) for c in example.tree.completions]
        assert example.scores == ended


def test_prompts_whose_samples_score_alike_are_left_out():
    assert rank(prompts(4), lambda _, trees: torch.ones(sum(len(t.completions) for t in trees))) == []


def test_a_single_distinct_sample_is_no_preference():
    near_greedy = SamplingSettings(num_generations=4, temperature=1e-4, max_new_tokens=12)
    assert rank(prompts(3), settings=near_greedy) == []
