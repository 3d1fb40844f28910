"""The sampler against transformers' own generate, and against the training forward."""

import logging

import pytest
import torch
from transformers import AfmoeConfig, AutoModelForCausalLM, DogeConfig, ModernBertDecoderConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from stages.models.hidden import backbone
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from stages.rollout.sampler import Sampler
from stages.rollout.sampling import draw, inverse_cdf
from stages.training.order import seed_step
from tests.models.test_fallback import CONFIGS as FALLBACK
from tests.models.test_trees import CONFIGS, SHAPE

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 40, 41, 42, 43, 44, 45], [1, 8, 8], [1, 13, 60]]


def model_of(name: str):
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("max_tokens", [30, 16384])
def test_greedy_equals_generate_token_for_token(name: str, max_tokens: int):
    model = model_of(name)
    rollouts = Sampler(model, [2, 50], max_tokens).sample(PROMPTS, 1, 12, temperature=0.0)
    for prompt, rollout in zip(PROMPTS, rollouts, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=[2, 50],
                                  pad_token_id=0)  # fmt: skip
        assert rollout.tree.prompt.input_ids == prompt
        assert rollout.tree.completions[0].input_ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_logprobs_equal_the_training_forward(name: str):
    model = model_of(name)
    rollouts = Sampler(model, [2], max_tokens=60).sample(PROMPTS, 3, 6, temperature=0.6)
    scored = completion_logprobs(model, [rollout.tree for rollout in rollouts], temperature=0.6)
    sampled = torch.tensor(
        [value for rollout in rollouts for logprobs in rollout.logprobs for value in logprobs]
    )
    torch.testing.assert_close(scored.logprobs[scored.mask], sampled, rtol=1e-4, atol=1e-5)
    assert [len(rollout.tree.completions) for rollout in rollouts] == [3] * 5


@pytest.mark.parametrize("name", FALLBACK)
def test_a_model_without_a_key_value_cache_is_sampled_by_generate(name: str):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(FALLBACK[name]).eval()
    probe(model)
    greedy = Sampler(model, [2, 50]).sample(PROMPTS, 1, 8, temperature=0.0)
    for prompt, rollout in zip(PROMPTS, greedy, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=[2, 50]
        )
        assert rollout.tree.completions[0].input_ids == expected[0, len(prompt) :].tolist()
    model.generation_config.repetition_penalty = 1.5  # not ours, and unknown to the training forward
    model.generation_config.min_p = 0.2
    rollouts = Sampler(model, list(range(20)), max_tokens=40).sample(PROMPTS, 4, 6, temperature=0.6)
    scored = completion_logprobs(model, [rollout.tree for rollout in rollouts], temperature=0.6)
    sampled = [value for rollout in rollouts for logprobs in rollout.logprobs for value in logprobs]
    torch.testing.assert_close(scored.logprobs[scored.mask], torch.tensor(sampled), rtol=1e-4, atol=1e-5)
    lengths = {len(node.input_ids) for rollout in rollouts for node in rollout.tree.completions}
    assert [len(rollout.tree.completions) for rollout in rollouts] == [4] * 5 and min(lengths) < max(
        lengths
    ) <= 6


def test_end_tokens_end_a_row_and_are_kept():
    model = model_of("llama")
    rollouts = Sampler(model, list(range(40)), max_tokens=40).sample(PROMPTS, 8, 5)
    for rollout in rollouts:
        for node, finished in zip(rollout.tree.completions, rollout.finished, strict=True):
            assert all(token >= 40 for token in node.input_ids[:-1])
            assert finished == (node.input_ids[-1] < 40)
            assert finished or len(node.input_ids) == 5


def test_copied_weights_follow_the_model():
    model = model_of("llama")
    sampler = Sampler(model, [2], dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = Sampler(model, [2]).sample(PROMPTS, 1, 8, temperature=0.0)
    assert [r.tree for r in sampler.sample(PROMPTS, 1, 8, temperature=0.0)] == [r.tree for r in expected]


def test_copied_weights_are_given_back_between_samplings():
    sampler = Sampler(model_of("llama"), [2], dtype=torch.float64)
    found = []
    for _ in range(2):
        torch.manual_seed(4)
        found.append([rollout.tree for rollout in sampler.sample(PROMPTS, 2, 8)])
        assert not any(projection.parts for projection in sampler.decoder._projections())  # type: ignore[attr-defined]
    assert found[0] == found[1]


def test_draw_has_the_frequencies_of_the_distribution():
    torch.manual_seed(0)
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    tokens, logprobs = draw(logits.expand(20000, 3), temperature=1.0)
    assert torch.bincount(tokens, minlength=3).div(20000).tolist() == pytest.approx(
        [0.7, 0.2, 0.1], abs=0.015
    )
    torch.testing.assert_close(logprobs, logits[tokens])


def test_deterministic_algorithms_wait_while_it_samples():
    """They sort what is written into the cache, and training has asked for them."""
    model, seen = model_of("gpt2"), []
    model.transformer.register_forward_pre_hook(
        lambda *_: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    seed_step(0, 0, 0)
    try:
        Sampler(model, [2]).sample(PROMPTS, 1, 2)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen and not any(seen)


def test_a_sum_that_was_rounded_up_finds_no_entry_of_weight_0():
    """1 + 6e-8 is 1.00000012 in float32: from 1.0 it is further to the end of that block than the block is wide."""
    probabilities = torch.zeros(1, 768)
    probabilities[0, 10] = probabilities[0, 700] = 1.0
    probabilities[0, 300] = 6e-8
    assert inverse_cdf(probabilities, torch.full((1, 1), 0.5)).tolist() == [300]


@pytest.mark.parametrize("vocab", [1, 255, 256, 257, 1000])
def test_inverse_cdf_is_that_of_a_plain_cumulative_sum(vocab: int):
    torch.manual_seed(1)
    weights = torch.rand(500, vocab, dtype=torch.float64) ** 8
    weights[:, 1::3] = 0.0
    probabilities = weights / weights.sum(-1, keepdim=True)
    uniform = torch.rand(500, 1, dtype=torch.float64)
    uniform[0], uniform[1] = 0.0, 1.0 - 2**-53
    expected = (probabilities.cumsum(-1) <= uniform).sum(-1).clamp(max=vocab - 1)
    found = inverse_cdf(probabilities, uniform)
    assert (found != expected).sum() <= 1  # the number next to 1 may be rounded
    assert (probabilities.gather(-1, found[:, None]) > 0).all()


def test_draw_tempers_and_never_takes_an_impossible_token():
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf]]).expand(5000, 4)
    tokens, logprobs = draw(logits, temperature=0.5)
    assert set(tokens.tolist()) == {0, 2}
    # exp(2) / (1 + exp(2)) = 0.8808
    assert (tokens == 2).float().mean().item() == pytest.approx(0.8808, abs=0.02)
    assert logprobs[tokens == 2][0].item() == pytest.approx(-0.126928, abs=1e-5)


# families whose attention takes no cache of ours, and one that transformers' generate cannot run with its own
UNCACHED = {
    "afmoe": AfmoeConfig(**SHAPE, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, sliding_window=4,
                         layer_types=["sliding_attention", "full_attention"], num_dense_layers=1),
    "doge": DogeConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"}),
    "hrm_text": CONFIG_MAPPING["hrm_text"](**SHAPE),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCACHED)
def test_a_family_that_takes_no_cache_of_ours_is_sampled_by_generate(name: str, caplog):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(UNCACHED[name]).eval()
    probe(model)
    assert backbone(model).takes_trees
    with caplog.at_level(logging.INFO):
        sampler = Sampler(model, [2, 50])
    assert not sampler.cached and "sampled by transformers' generate" in caplog.text
    for prompt, rollout in zip(PROMPTS, sampler.sample(PROMPTS, 1, 6, temperature=0.0), strict=True):
        ids = list(prompt)
        for token in rollout.tree.completions[0].input_ids:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert logits.max() - logits[token] < 1e-5
            ids.append(token)


def test_a_head_of_a_family_s_own_gives_the_sampler_s_log_probabilities():
    torch.manual_seed(3)
    config = ModernBertDecoderConfig(**SHAPE, local_attention=8)
    model = AutoModelForCausalLM.from_config(config).eval()
    probe(model)
    sampler = Sampler(model, [2])
    assert sampler.cached
    for rollout in sampler.sample(PROMPTS, 2, 9, temperature=1.0):
        for node, logprobs in zip(rollout.tree.completions, rollout.logprobs, strict=True):
            ids = torch.tensor(rollout.tree.prompt.input_ids + node.input_ids)
            plain = model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
            expected = plain.gather(-1, ids[1:, None])[-len(logprobs) :, 0]
            torch.testing.assert_close(torch.tensor(logprobs), expected, rtol=1e-4, atol=1e-5)
