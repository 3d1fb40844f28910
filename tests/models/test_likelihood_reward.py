"""The reward that is a log-likelihood, against transformers' own loss."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.models.reward_kinds import REWARD_MODELS, load_reward_model
from tests.models.tiny import lora, tiny_llama, tree


def test_the_reward_is_the_sum_of_the_tokens_log_probabilities(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    trees = [tree([1, 5, 9], [7, 8, 2], [11, 2]), tree([1, 6], [40, 41, 42, 2])]
    rewards = REWARD_MODELS["likelihood"].from_policy(tmp_path, lora(on=False)).eval()(trees)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = []
    for one in trees:
        for completion in one.completions:
            ids = torch.tensor([one.prompt.input_ids + completion.input_ids])
            labels = ids.clone()
            labels[:, : len(one.prompt.input_ids)] = -100
            expected.append(-model(input_ids=ids, labels=labels).loss.item() * len(completion.input_ids))
    assert rewards.tolist() == pytest.approx(expected, abs=1e-4)


def test_it_is_loaded_as_what_it_was_saved_as_with_its_normalisation(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "policy")
    reward_model = REWARD_MODELS["likelihood"].from_policy(tmp_path / "policy", lora(on=False)).eval()
    reward_model.model.config.reward_mean, reward_model.model.config.reward_std = -3.0, 2.0
    reward_model.model.save_pretrained(tmp_path / "reward")
    trees = [tree([1, 5, 9], [7, 8, 2], [11, 2])]
    loaded = load_reward_model(tmp_path / "reward")
    assert loaded.kind == "likelihood"
    torch.testing.assert_close(loaded.score(trees, 4096), (reward_model(trees).detach() + 3.0) / 2.0)
