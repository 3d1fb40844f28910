"""A run that is cut off and goes on ends with the bits of one that was not, whatever it trains."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.algorithms.base import Algorithm
from stages.models.load import add_adapter, load_model, save_model
from stages.models.one_backbone import attach_reward_model
from stages.models.reward import RewardModel
from stages.training.evaluation import Evaluation
from tests.algorithms.tiny import ALGORITHMS, examples_of, make, settings_of
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import lora, shake, tiny_llama
from tests.training.tiny import Memory, run

STEPS = {
    "num_train_epochs": 3,
    "batch_size": 4,
    "warmup_ratio": 0.0,
    "learning_rate": 3e-3,
}  # 6 steps of 8 examples
SEVERAL_PASSES = {
    "ppo": {"num_ppo_epochs": 2, "num_mini_batches": 2, "whiten_rewards": True},
    "grpo": {"num_iterations": 2, "num_mini_batches": 2},
    "rloo": {"num_iterations": 2, "num_mini_batches": 2},
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Stands for the signal."""


def fresh(name: str, adapters: bool) -> Algorithm:
    policy = tiny_llama(tie_word_embeddings=True)
    return make(name, add_adapter(policy, lora(lora_dropout=0.2)) if adapters else policy, **changes(name))


def changes(name: str) -> dict:
    return STEPS | SEVERAL_PASSES.get(name, {})


def go(
    name: str, folder: Path, algorithm: Algorithm, dies_at: int | None = None
) -> tuple[Algorithm, Memory | None]:
    calls = []

    def evaluate() -> Evaluation:
        calls.append(1)
        if len(calls) - 1 == dies_at:  # the first call is that of step 0
            raise Killed
        return Evaluation({"eval/calls": 1.0})

    settings = settings_of(name, **changes(name), eval_steps=1)
    try:
        return algorithm, run(algorithm, examples_of(name), settings, folder, save_steps=2, evaluate=evaluate)
    except Killed:
        return algorithm, None


CASES = [(name, False) for name in ALGORITHMS] + [
    (name, True) for name in ("sft", "dpo", "kto", "grpo", "rloo", "ppo")
]


@pytest.mark.parametrize(("name", "adapters"), CASES)
def test_resumed_run_ends_with_the_same_bits(name: str, adapters: bool, tmp_path: Path):
    """Killed in step 5, after the checkpoint of step 4: DPO's, GRPO's and PPO's reference is still that of step 0."""
    whole, log = go(name, tmp_path / "whole", fresh(name, adapters))
    go(name, tmp_path / "cut", fresh(name, adapters), dies_at=5)
    assert names(tmp_path / "cut") == ["step-2", "step-4"]
    random.seed(99)  # a new process has another state, and no checkpoint says which the old one had
    np.random.seed(99)
    torch.manual_seed(99)
    resumed, resumed_log = go(name, tmp_path / "cut", fresh(name, adapters))

    start = fresh(name, adapters).state_dict()
    expected = whole.state_dict()
    assert any(not torch.equal(start[key], value) for key, value in expected.items())
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert log and resumed_log
    kl = [metric for metric in ("objective/kl_k1", "objective/rewards/margin") if log.curve(metric)]
    for metric in ("train/loss", "train/grad_norm", "train/learning_rate", *kl):
        assert resumed_log.curve(metric) == log.curve(metric)  # from step 1: the curve is whole
        assert list(log.curve(metric)) == [1, 2, 3, 4, 5, 6]


def test_ppo_on_one_backbone_resumes_with_the_same_bits(tmp_path: Path):
    """Policy, reference and reward on one base: none of the other two moves, before the kill or behind it."""
    tiny_llama().save_pretrained(tmp_path / "sft")
    trained = RewardModel.from_policy(tmp_path / "sft", lora())
    shake(trained)
    save_model(
        trained.model, tiny_tokenizer(), tmp_path / "reward", merge_adapter=False, base=tmp_path / "sft"
    )

    def algorithm() -> Algorithm:
        torch.manual_seed(0)
        policy = add_adapter(load_model(tmp_path / "sft"), lora())
        reward_model = attach_reward_model(policy, tmp_path / "reward")
        made = make("ppo", policy, **changes("ppo"))
        made.parts.rewards.sources["verifier"] = lambda _, trees: reward_model.score(trees, 4096).tolist()
        return made

    start = algorithm().state_dict()
    whole, log = go("ppo", tmp_path / "whole", algorithm())
    go("ppo", tmp_path / "cut", algorithm(), dies_at=5)
    resumed, resumed_log = go("ppo", tmp_path / "cut", algorithm())
    moved = {key for key, value in whole.state_dict().items() if not torch.equal(start[key], value)}
    assert moved and all(".default." in key or "value_head" in key for key in moved)
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[key]), key
    assert log and resumed_log
    for metric in ("objective/scores", "objective/kl_k1"):
        assert resumed_log.curve(metric) == log.curve(metric)
    assert log.curve("objective/kl_k1")[1] == 0  # policy and reference begin as one, to the last bit
