"""One model's answers, samples and losses, and what is said of them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stages.config.compose import compose_config
from stages.config.validate import read
from stages.evaluation.judge import Judge
from stages.evaluation.measure import Measurer, Source
from stages.evaluation.settings import EvaluateSettings
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.trees import Tree
from tests.evaluation.tiny import EOS_ID, LOG_VOCABULARY, OVERRIDES, TOKENIZER, example


def test_a_process_without_rows_measures_nothing_and_takes_part(project: Path) -> None:
    """Of one row on two processes the second has none: it loads its models, and gathers an empty list."""
    run_settings = read(compose_config(OVERRIDES), "evaluate", EvaluateSettings)
    measurer = Measurer(run_settings, [EOS_ID], 0, torch.device("cpu"))
    sources = {name: Source(project / name / "model") for name in ("sft", "rl")}
    measured, kl = measurer.policies(sources, [], [])
    assert kl == {"sft": [], "rl": []} and measured["rl"].losses == []
    judge = Judge(TOKENIZER, FunctionReward("exact", TOKENIZER), None)
    assert judge([], measured["rl"], kl["rl"]) == []


class FirstToken(LearnedReward):
    """A reward that is a completion's first token, normalised with mean 1 and deviation 2."""

    def __init__(self) -> None:
        config = SimpleNamespace(reward_mean=1.0, reward_std=2.0)
        self.model = SimpleNamespace(config=config)  # type: ignore[assignment]

    def __call__(self, trees: Sequence[Tree]) -> list[float]:
        return [(float(node.input_ids[0]) - 1) / 2 for tree in trees for node in tree.completions]


def test_samples_of_a_prompt_stay_together(project: Path) -> None:
    settings = read(compose_config(OVERRIDES), "evaluate", EvaluateSettings)
    measurer = Measurer(settings, [EOS_ID], 0, torch.device("cpu"))
    sources = {
        "rl": Source(project / "rl" / "model", num_generations=3),
        "sft": Source(project / "sft" / "model"),
    }
    prompts = [example(i, None) for i in range(2)]
    measured, kl = measurer.policies(sources, prompts, [])
    found = measured["rl"]
    assert [len(tree.completions) for tree in found.samples] == [3, 3] and len(kl["rl"]) == 2
    assert kl["rl"] == [0.0, 0.0]  # both are uniform
    answers = Judge(TOKENIZER, FunctionReward("exact", TOKENIZER), FirstToken())(prompts, found, kl["rl"])
    for answer, tree in zip(answers, found.samples, strict=True):
        assert [sample.reward for sample in answer.samples] == [
            node.input_ids[0] for node in tree.completions
        ]
        assert answer.tokens == sum(len(node.input_ids) for node in tree.completions)
        assert answer.entropy == pytest.approx(answer.tokens * LOG_VOCABULARY, rel=1e-5)
    assert Judge(TOKENIZER, None, FirstToken())(prompts, found, kl["rl"])[0].samples == ()
