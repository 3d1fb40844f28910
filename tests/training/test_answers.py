"""Held-out answers: greedy, judged by the verifier on its own scale, and beside it by the run's own rewards."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from stages.algorithms.parts import Parts
from stages.data.examples import Example
from stages.rewards.rewards import Reward, Rewards
from stages.training.answers import score_answers
from stages.training.evaluation import Evaluation
from tests.models.tiny import tiny_llama, tree

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 40, 41], [1, 13, 60]]


def parts(policy: nn.Module, verifier: Reward | None = None, **rewards: Reward) -> Parts:
    """The second reward counts twice, the third three times."""
    weights = {name: 1.0 + index for index, name in enumerate(rewards)}
    return Parts(policy, [96], torch.float32, Rewards(rewards, weights), verifier)


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
    evaluation = score_answers(parts(model, verifier), examples, 5)
    assert evaluation == Evaluation({"eval/gold_accuracy": 0.75}, [1.0, 0.0, 1.0, 1.0], [1.0] * 4)
    assert max(lengths) == 5


def test_the_run_s_rewards_are_of_the_same_answers_and_choose_where_no_verifier_does():
    examples = [Example(tree(prompt), "", None, {}) for prompt in PROMPTS]
    seen = []

    def length(_, trees) -> list[float]:
        seen.append([one.completions[0].input_ids for one in trees])
        return [float(index) for index in range(len(trees))]

    rewarded = parts(tiny_llama(), length=length, nothing=lambda _, trees: [None, 1.0, 0.5, 0.5])
    alone = score_answers(rewarded, examples, 5)
    assert alone == Evaluation({"eval/reward": 2.5}, [0.0, 3.0, 3.0, 4.0], [1.0] * 4)
    judged = replace(rewarded, verifier=lambda *_: [1.0, 0.0, 0.0, 0.0])
    both = score_answers(judged, examples, 5)
    assert list(both.metrics.items()) == [("eval/gold_accuracy", 0.25), ("eval/reward", 2.5)]
    assert both.values == [1.0, 0.0, 0.0, 0.0]
    assert seen[0] == seen[1]  # greedy


def test_there_is_none_without_a_judge_or_prompts():
    unused = parts(tiny_llama())
    assert score_answers(unused, [Example(tree([1]), "", None, {})], 5) == Evaluation()
    assert score_answers(unused, [], 5) == Evaluation()
    assert "sampler" not in vars(unused)  # none was built
