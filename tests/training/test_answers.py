"""Held-out answers: greedy, judged by the verifier on its own scale, and beside it by the run's own rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.algorithms.parts import Parts
from stages.config.compose import compose_config
from stages.data.examples import Example, write_examples
from stages.rewards.rewards import Reward, Rewards
from stages.rl import make_held_out
from stages.tracking.tracker import Tracker
from stages.training.answers import score_answers
from stages.training.evaluation import Evaluation
from stages.training.selection import Selection
from stages.trees import Tree
from stages.workspace import Stage
from tests.algorithms.tiny import make, settings_of
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
    parts_alone = {
        "eval/rewards/length": 1.5,
        "eval/rewards/nothing": pytest.approx(2 / 3),
    }  # of three: None is none
    assert alone == Evaluation({"eval/reward": 2.5} | parts_alone, [0.0, 3.0, 3.0, 4.0], [1.0] * 4)
    judged = replace(rewarded, verifier=lambda *_: [1.0, 0.0, 0.0, 0.0])
    both = score_answers(judged, examples, 5)
    assert both.metrics == {"eval/gold_accuracy": 0.25, "eval/reward": 2.5} | parts_alone
    assert both.values == [1.0, 0.0, 0.0, 0.0]
    assert seen[0] == seen[1]  # greedy


def test_there_is_none_without_a_judge_or_prompts():
    unused = parts(tiny_llama())
    assert score_answers(unused, [Example(tree([1]), "", None, {})], 5) == Evaluation()
    assert score_answers(unused, [], 5) == Evaluation()
    assert "sampler" not in vars(unused)  # none was built


class Scores:
    """A reward that gives these, and counts how often it is asked."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.calls = scores, 0

    def __call__(self, examples: Sequence[Example], trees: Sequence[Tree]) -> Sequence[float]:
        self.calls += 1
        return self.scores


@pytest.mark.parametrize("judged", [True, False])
def test_of_several_rewards_the_verifier_alone_chooses_where_there_is_one(judged: bool, tmp_path: Path):
    """{reward_model: 1.0, verifier: 0.5}: from step 0 to 10 the sum rises from 1 + 0.5 * 0.625 to 2 + 0.5 * 0.375, and
    right answers fall from 2 of 4 to 1, for half a point is no right answer."""
    (tmp_path / "model.json").touch()  # the mark of prepare's output
    write_examples(
        tmp_path / "prompt_validation.jsonl", [Example(tree(prompt), "", None, {}) for prompt in PROMPTS]
    )
    config = compose_config([f"+run.inputs.prepare={tmp_path}"])
    run = Stage("rl", config, tmp_path, tmp_path / "none", Tracker([]), is_main=True)
    learned, verifier = Scores(1.0, 3.0, -1.0, 1.0), Scores(1.0, 0.0, 0.5, 1.0)
    rewards = Rewards({"reward_model": learned, "verifier": verifier}, {"reward_model": 1.0, "verifier": 0.5})
    algorithm, settings = make("ppo"), settings_of("ppo")
    used = replace(algorithm.parts, rewards=rewards, verifier=verifier if judged else None)
    held_out = make_held_out(run, settings, algorithm, used, [])
    selection = Selection(held_out.criterion, settings)

    before = held_out.evaluate()
    selection.update(0, before)
    learned.scores, verifier.scores = (3.0, 3.0, 1.0, 1.0), (1.0, 0.0, 0.5, 0.0)
    after = held_out.evaluate()
    selection.update(10, after)

    assert verifier.calls == 2  # once an evaluation, for both uses
    assert [e.metrics["eval/reward"] for e in (before, after)] == [1.3125, 2.1875]
    assert [e.metrics["eval/rewards/reward_model"] for e in (before, after)] == [1.0, 2.0]
    assert [e.metrics["eval/rewards/verifier"] for e in (before, after)] == [0.625, 0.375]
    assert [e.metrics.get("eval/gold_accuracy") for e in (before, after)] == (
        [0.5, 0.25] if judged else [None, None]
    )
    outcome = selection.outcome(10, 20)
    kept = (0, "eval/gold_accuracy", 0.5) if judged else (10, "eval/reward", 2.1875)
    assert (outcome.kept_step, outcome.metric, outcome.value) == kept
