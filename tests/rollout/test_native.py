"""Our own decode step against transformers' forward: families, adapters, precisions, shapes that stay."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, LlamaConfig

from stages.models.load import add_adapter
from stages.models.logprobs import completion_logprobs
from stages.rollout import decoder as decoder_module
from stages.rollout import in_flight, native
from stages.rollout.cache import KeyValueCache
from stages.rollout.decoder import Decoder, TransformersDecoder, make_decoder
from stages.rollout.native import NativeDecoder
from stages.rollout.projection import quick_rows
from stages.rollout.sampler import Sampler
from tests.models.test_trees import CONFIGS, SHAPE
from tests.models.tiny import lora, shake

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 40, 41, 42, 43, 44, 45], [1, 8, 8], [1, 13, 60]]


def model_of(config):
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_common_block_is_run_natively_and_others_by_their_own_forward(name: str):
    native = name in ("llama", "qwen2", "qwen3", "mistral")
    assert isinstance(make_decoder(model_of(CONFIGS[name]), torch.float32), NativeDecoder) == native


def test_a_copy_in_bf16_keeps_its_rotary_frequencies():
    model = model_of(CONFIGS["gemma"])
    decoder = make_decoder(model, torch.bfloat16)
    assert isinstance(decoder, TransformersDecoder)
    assert {parameter.dtype for parameter in decoder.model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in decoder.model.buffers()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_it_is_found_under_autocast_too_where_a_training_stage_asks_for_it():
    wide = LlamaConfig(
        **SHAPE | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 32}
    )
    with torch.autocast("cpu", torch.bfloat16):
        made = [make_decoder(model_of(wide), dtype) for dtype in (torch.bfloat16, torch.float32)]
    assert [type(decoder) for decoder in made] == [NativeDecoder, NativeDecoder]


def test_a_model_that_looks_alike_but_computes_otherwise_is_found_out():
    alike = GraniteConfig(**SHAPE, residual_multiplier=1.0, attention_multiplier=8**-0.5)
    other = GraniteConfig(**SHAPE, residual_multiplier=0.5, attention_multiplier=8**-0.5)
    assert isinstance(make_decoder(model_of(alike), torch.float32), NativeDecoder)
    assert isinstance(make_decoder(model_of(other), torch.float32), TransformersDecoder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adapters_are_merged_and_followed(dtype: torch.dtype):
    policy = add_adapter(model_of(CONFIGS["qwen2"]), lora())
    sampler = Sampler(policy, [2], dtype=dtype)
    assert isinstance(sampler.decoder, NativeDecoder)
    for seed in (1, 2):
        shake(policy, seed=seed)
        for prompt, rollout in zip(PROMPTS, sampler.sample(PROMPTS, 1, 10, temperature=0.0), strict=True):
            expected = policy.generate(
                input_ids=torch.tensor([prompt]),
                max_new_tokens=10,
                do_sample=False,
                eos_token_id=2,
                pad_token_id=0,
            )
            assert rollout.tree.completions[0].input_ids == expected[0, len(prompt) :].tolist()
    with policy.disable_adapter():
        base = sampler.sample(PROMPTS, 1, 10, temperature=0.0)
    assert [r.tree for r in base] != [r.tree for r in sampler.sample(PROMPTS, 1, 10, temperature=0.0)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN packs the weights")
def test_float32_weights_are_packed_while_sampling_and_given_back():
    sampler = Sampler(model_of(CONFIGS["llama"]), [2])
    projections = [*sampler.decoder._projections()]
    sampler.decoder.refresh()
    assert all(len(each.parts) == 1 and each.parts[0][0].is_mkldnn for each in projections)
    sampler.sample(PROMPTS, 1, 4)
    assert not any(each.parts for each in projections)


@pytest.mark.parametrize("sharing_pays", [1, 64])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_rows_of_padding_change_no_token(name: str, sharing_pays: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(in_flight, "SHARING_PAYS", sharing_pays)
    sampler = Sampler(model_of(CONFIGS[name]), [2])
    plain = sampler.sample(PROMPTS, 3, 10, temperature=0.0)
    asked: list[int] = []
    monkeypatch.setattr(native, "quick_rows", lambda rows, *_: asked.append(rows) or rows + 5)
    padded = sampler.sample(PROMPTS, 3, 10, temperature=0.0)
    assert len(asked) > 20  # once for the states and once for the logits of each step
    for mine, theirs in zip(padded, plain, strict=True):
        assert mine.tree == theirs.tree
        for found, expected in zip(mine.logprobs, theirs.logprobs, strict=True):
            assert found == pytest.approx(expected, abs=1e-5)


def test_rows_are_padded_where_the_processor_multiplies_tiles(monkeypatch: pytest.MonkeyPatch):
    def rows(*counts: int, dtype: torch.dtype = torch.bfloat16) -> list[int]:
        return [quick_rows(count, torch.device("cpu"), dtype) for count in counts]

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert rows(1, 16, 17, 32, 33, 128) == [1, 16, 33, 33, 33, 128]
    assert rows(17, dtype=torch.float32) == [17]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert rows(17) == [17]


def test_dora_is_left_to_its_own_forward():
    from peft import LoraConfig, get_peft_model

    policy = get_peft_model(
        model_of(CONFIGS["llama"]), LoraConfig(use_dora=True, target_modules="all-linear")
    )
    assert isinstance(make_decoder(policy, torch.float64), TransformersDecoder)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_bf16_log_probabilities_are_near_the_training_forward(name: str, adapters: bool):
    model = model_of(CONFIGS[name])
    model = add_adapter(model, lora()) if adapters else model
    sampler = Sampler(model, [2], dtype=torch.bfloat16)
    shake(model, 0.02)  # after the sampler was made
    rollouts = sampler.sample(PROMPTS, 4, 12)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        scored = completion_logprobs(model, [rollout.tree for rollout in rollouts])
    sampled = torch.tensor([v for rollout in rollouts for logprobs in rollout.logprobs for v in logprobs])
    assert (scored.logprobs[scored.mask] - sampled).abs().mean() < 2e-3


class EagerStep:
    """In the place of a CUDA graph: the same step, run again. `calls` has those of each recording."""

    calls: ClassVar[list[int]] = []

    def __init__(self, decoder: Decoder, cache: KeyValueCache, input_ids: torch.Tensor) -> None:
        self.decoder, self.cache = decoder, cache
        self.addresses = self._addresses()
        self.calls.append(0)

    def _addresses(self) -> list[int]:
        """Of all that a graph would read and write."""
        buffers = [self.cache.lengths, *self.cache.keys, *self.cache.values]
        return [self.cache.capacity, *(buffer.data_ptr() for buffer in buffers)]

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        assert self._addresses() == self.addresses
        self.calls[-1] += 1
        return self.decoder.logits(self.decoder.states(input_ids, self.cache)[:, 0])


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("max_tokens", [60, 16384])
def test_shapes_that_stay_change_no_token(name: str, max_tokens: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(in_flight, "RecordedStep", EagerStep)
    monkeypatch.setattr(EagerStep, "calls", [])
    stops = list(range(2, 12))
    plain = Sampler(model_of(CONFIGS[name]), stops, max_tokens)
    static = Sampler(model_of(CONFIGS[name]), stops, max_tokens)
    static.decoder.static = True
    expected, found = (sampler.sample(PROMPTS, 2, 20, temperature=0.0) for sampler in (plain, static))
    assert [r.tree for r in found] == [r.tree for r in expected]
    lengths = {len(node.input_ids) for rollout in found for node in rollout.tree.completions}
    assert len(lengths) > 1  # some rows ended early and only kept their places
    assert max(EagerStep.calls) > 1
    assert len(EagerStep.calls) > (max_tokens == 60)  # there, prompts that wait take the places of rows


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
def test_a_recorded_step_samples_as_a_plain_one():
    model = model_of(CONFIGS["llama"]).cuda()
    recorded, plain = Sampler(model, [2]), Sampler(model, [2])
    plain.decoder.static = False
    expected, found = (sampler.sample(PROMPTS, 4, 20, temperature=0.0) for sampler in (plain, recorded))
    assert [r.tree for r in found] == [r.tree for r in expected]


def test_the_trial_copies_no_weight(monkeypatch: pytest.MonkeyPatch):
    made: list[NativeDecoder] = []

    class Seen(NativeDecoder):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(decoder_module, "NativeDecoder", Seen)
    model = model_of(CONFIGS["llama"])
    make_decoder(model, torch.bfloat16)
    trial, kept = made
    weights = {weight.data_ptr() for weight in model.parameters()}
    used = [weight for projection in trial._projections() for weight, _ in projection.parts]
    assert len(used) == 2 * 7 + 1 and {weight.data_ptr() for weight in used} <= weights
    assert not any(projection.parts for projection in kept._projections())
