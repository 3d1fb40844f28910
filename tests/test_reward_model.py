"""The reward_model stage: what it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.reward_model import new_reward_model
from tests.models.tiny import lora, tiny_llama


@pytest.mark.parametrize("adapters", [False, True])
def test_the_head_follows_from_the_seed_and_not_from_what_was_sampled_before(adapters: bool, tmp_path: Path):
    tiny_llama().save_pretrained(tmp_path)
    states = []
    for seed, drawn in [(3, 0), (3, 1000), (4, 0)]:
        torch.manual_seed(9)
        torch.rand(drawn)
        states.append(new_reward_model("head", tmp_path, lora(on=adapters), seed).state_dict())
    heads = [state[next(key for key in state if "score" in key)] for state in states]
    assert heads[0].any()
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
