"""Held-out gold accuracy: greedy answers, the verifier's own scale, no training reward."""

from __future__ import annotations

import torch
from torch import nn

from stages.algorithms.parts import Parts
from stages.data.examples import Example
from stages.rewards.rewards import Rewards
from stages.training.gold import gold_accuracy
from tests.models.tiny import tiny_llama, tree

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 40, 41], [1, 13, 60]]


def parts(policy: nn.Module) -> Parts:
    return Parts(policy, [96], torch.float32, Rewards({}, {}))


def test_it_is_the_share_of_greedy_answers_with_full_marks():
    model = tiny_llama()
    examples = [Example(tree(prompt), "", None, {}) for prompt in PROMPTS]
    right = [
        model.generate(torch.tensor([p]), max_new_tokens=5, do_sample=False, eos_token_id=96) for p in PROMPTS
    ]
    answers = [ids[0, len(prompt) :].tolist() for ids, prompt in zip(right, PROMPTS, strict=True)]
    lengths = []

    def verifier(_, trees) -> list[float]:
        """Right for three of the four, half right for the other."""
        lengths.extend(len(node.input_ids) for one in trees for node in one.completions)
        assert [one.completions[0].input_ids for one in trees] == answers
        return [1.0, 0.5, 1.0, 1.0]

    torch.manual_seed(4)
    assert gold_accuracy(parts(model), examples, verifier, 5) == {"eval/gold_accuracy": 0.75}
    assert max(lengths) == 5


def test_there_is_none_without_a_verifier_or_prompts():
    unused = parts(tiny_llama())
    assert gold_accuracy(unused, [Example(tree([1]), "", None, {})], None, 5) == {}
    assert gold_accuracy(unused, [], lambda *_: [], 5) == {}
    assert "sampler" not in vars(unused)  # none was built
