"""Decoding with prompts that are held once: against transformers' generate, the training forward, and plain caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from stages.models.logprobs import completion_logprobs
from stages.rollout import in_flight
from stages.rollout.cache import KeyValueCache
from stages.rollout.in_flight import InFlight
from stages.rollout.rollout import Rollout
from stages.rollout.sampler import Sampler
from stages.rollout.shared_prompts import SharedPromptCache
from tests.models.test_trees import CONFIGS
from tests.rollout.test_native import PROMPTS, model_of

NATIVE = ["llama", "mistral", "qwen2", "qwen3"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each such cache was made for."""
    made: list[int] = []

    class Seen(SharedPromptCache):
        def __init__(self, prompts: KeyValueCache, group: int) -> None:
            super().__init__(prompts, group)
            made.append(len(self.own.lengths))

    monkeypatch.setattr(in_flight, "SHARING_PAYS", 7)  # as many as PROMPTS' longest has
    monkeypatch.setattr(in_flight, "SharedPromptCache", Seen)
    return made


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("max_tokens", [50, 16384])
def test_greedy_equals_generate_token_for_token(name: str, max_tokens: int, seen: list[int]):
    model = model_of(CONFIGS[name])
    rollouts = Sampler(model, [2, 50], max_tokens).sample(PROMPTS, 3, 12, temperature=0.0)
    assert sum(seen) == 3 * len(PROMPTS) and (len(seen) > 1) == (max_tokens == 50)
    assert_generate_gives(model, rollouts, [2, 50])


def assert_generate_gives(model: Any, rollouts: list[Rollout], stops: Sequence[int] = (2,)) -> None:
    """The 12 tokens that transformers' generate takes behind each prompt, at temperature 0."""
    for prompt, rollout in zip(PROMPTS, rollouts, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
                                  eos_token_id=list(stops), pad_token_id=0)  # fmt: skip
        for node in rollout.tree.completions:
            assert node.input_ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("max_tokens", [80, 16384])
def test_logprobs_equal_the_training_forward_while_rows_leave(name: str, max_tokens: int, seen: list[int]):
    """End tokens are many, so that groups shrink unevenly, some vanish, and waiting prompts take their places."""
    model = model_of(CONFIGS[name])
    torch.manual_seed(0)
    rollouts = Sampler(model, list(range(12)), max_tokens).sample(PROMPTS, 4, 12, temperature=0.8)
    scored = completion_logprobs(model, [rollout.tree for rollout in rollouts], temperature=0.8)
    sampled = [value for rollout in rollouts for logprobs in rollout.logprobs for value in logprobs]
    torch.testing.assert_close(scored.logprobs[scored.mask], torch.tensor(sampled), rtol=1e-4, atol=1e-5)
    lengths = [[len(node.input_ids) for node in rollout.tree.completions] for rollout in rollouts]
    assert any(len(set(group)) > 2 for group in lengths)
    assert len({max(group) for group in lengths}) > 1
    assert (len(seen) > 1) == (max_tokens == 80)


@pytest.mark.parametrize("name", NATIVE)
def test_in_bf16_log_probabilities_are_near_the_training_forward(name: str, seen: list[int]):
    model = model_of(CONFIGS[name])
    rollouts = Sampler(model, [2], dtype=torch.bfloat16).sample(PROMPTS, 4, 12)
    assert seen == [20]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scored = completion_logprobs(model, [rollout.tree for rollout in rollouts])
    sampled = [value for rollout in rollouts for logprobs in rollout.logprobs for value in logprobs]
    assert (scored.logprobs[scored.mask] - torch.tensor(sampled)).abs().mean() < 2e-3


@pytest.mark.parametrize(("longest", "group", "shared"), [(7, 2, True), (6, 2, False), (7, 1, False)])
def test_shared_where_it_pays(longest: int, group: int, shared: bool, seen: list[int]):
    Sampler(model_of(CONFIGS["llama"]), [2]).sample([list(range(3, 3 + longest)), [1, 7]], group, 3)
    assert seen == ([4] if shared else [])


def test_layers_with_and_without_a_window_share_too(seen: list[int]):
    config = Qwen2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, use_sliding_window=True, sliding_window=4,
        max_window_layers=1, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    assert config.layer_types == ["full_attention", "sliding_attention"]
    model = model_of(config)
    rollouts = Sampler(model, [2]).sample(PROMPTS, 3, 12, temperature=0.0)
    assert seen == [3 * len(PROMPTS)]
    assert_generate_gives(model, rollouts)


def test_no_prompt_is_copied_and_one_without_rows_goes():
    prompts = KeyValueCache(torch.tensor([2, 3]), 3)
    prompts.keys = [torch.randn(2, 1, 3, 8)]
    prompts.values = [torch.randn(2, 1, 3, 8)]
    second = prompts.keys[0][1].clone()
    cache = SharedPromptCache(prompts, 4)
    cache.reserve(1)
    keys = torch.randn(8, 1, 1, 8)
    mask = torch.zeros(()).expand(cache.visible(1, None).shape)
    found = cache.attend(torch.randn(8, 2, 1, 8), keys, keys, mask, 0, 1.0)
    assert found.shape == (8, 1, 2, 8)
    assert cache.prompts.keys[0].shape == (2, 1, 3, 8) and cache.own.keys[0].shape == (8, 1, 4, 8)
    assert cache.positions(1).flatten().tolist() == [2, 2, 2, 2, 3, 3, 3, 3]
    assert cache.shrink([5, 7]) == [5, 7]
    torch.testing.assert_close(cache.prompts.keys[0], second[None])
    assert cache.positions(1).flatten().tolist() == [3, 3]


@pytest.mark.parametrize(("shares", "expected"), [(True, [6, 3]), (False, [5, 2])])
def test_the_budget_counts_slots(shares: bool, expected: list[int], seen: list[int]):
    """The longest prompt has 7 tokens, a group 2 rows of 12 new ones: 8 + 2 * 12 slots where shared, else 2 * 20."""
    sampler = Sampler(model_of(CONFIGS["llama"]), [2])
    sampler.decoder.shares = shares
    batch = InFlight(sampler.decoder, PROMPTS, 2, 12, 1.0)
    with torch.no_grad():
        sampler.decoder.refresh()
        rooms = [batch.room(7, 221)]  # 6 * 32 + 29, 5 * 40 + 21
        batch.prefill([2, 0, 1])
        rooms.append(batch.room(4, 200))  # 200 - 96 = 3 * 32 + 8, 200 - 120 = 2 * 40
    assert rooms == expected
