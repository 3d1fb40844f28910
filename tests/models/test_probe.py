"""What a model is believed to compute, against its own plain forward: heads, windows, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    DogeConfig,
    Gemma3Config,
    GPTNeoConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    ModernBertDecoderConfig,
    OPTConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from stages.config.errors import UserError
from stages.models.hidden import backbone, masked_states, padded_states, state_size
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from stages.models.trial import Trial, agree
from stages.models.windows import WINDOW, with_narrow_windows
from tests.models.tiny import SHAPE, tiny_llama, tree

WIDE = SHAPE | {"max_position_embeddings": 600}
GEMMA3 = Gemma3Config(
    text_config=WIDE | {"head_dim": 8, "sliding_window": 40, "query_pre_attn_scalar": 8, "sliding_window_pattern": 2},
    vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                   "image_size": 8, "patch_size": 4},
    mm_tokens_per_image=4, image_token_index=90, boi_token_index=91, eoi_token_index=92,
)  # fmt: skip
OF_HYPERCLOVA = CONFIG_MAPPING["hyperclovax"](
    **WIDE, head_dim=8, logits_scaling=0.25, attention_multiplier=0.3
)
# how the probe has them run, and whether by their own head
FAMILIES: dict[str, tuple[Any, str, bool]] = {
    "a dense layer in the head": (ModernBertDecoderConfig(**WIDE, local_attention=100), "packed", True),
    "scaled logits": (OF_HYPERCLOVA, "packed", True),
    "capped logits": (
        RecurrentGemmaConfig(**WIDE | {"num_hidden_layers": 3}, lru_width=32, attention_window_size=40, head_dim=8,
                             logits_soft_cap=2.0), "padded", True),
    "a window of its own": (
        GPTNeoConfig(vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=600,
                     attention_types=[[["global", "local"], 1]], intermediate_size=48), "padded", False),
    "chunks": (Llama4TextConfig(**WIDE, head_dim=8, attention_chunk_size=40, intermediate_size_mlp=48,
                                num_local_experts=2), "padded", False),
    "a window of ours": (MistralConfig(**WIDE, sliding_window=40), "packed", False),
    "a nested configuration": (GEMMA3, "packed", False),
    "projected states": (OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
                                   num_attention_heads=4, max_position_embeddings=600, word_embed_proj_dim=16),
                         "packed", False),
}  # fmt: skip


def model_of(config: Any) -> PreTrainedModel:
    """With weights that are far from even: what a layer does shows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_the_model_s_own_forward(name: str):
    """Texts reach beyond each window as its configuration has it, GPT-Neo's 256 too."""
    config, how, own_head = FAMILIES[name]
    model = model_of(config)
    probe(model)
    body: Any = backbone(model)
    assert ("packed" if body.takes_trees else "padded", body.own_head) == (how, own_head)

    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 90, (400,), generator=generator).tolist()
    trees = [tree([1, *ids[:270]], ids[270:320], ids[320:330]), tree([1, 9], ids[330:])]
    with torch.no_grad():
        found = completion_logprobs(model, trees)
        expected = []
        for each in trees:
            for completion in each.completions:
                text = torch.tensor(each.prompt.input_ids + completion.input_ids)
                logits = model(input_ids=text[None], use_cache=False).logits[0]
                losses = F.cross_entropy(logits[:-1].float(), text[1:], reduction="none")
                expected.append(-losses[len(each.prompt.input_ids) - 1 :])
    torch.testing.assert_close(found.logprobs[found.mask], torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert found.logprobs[found.mask].std() > 0.1


@pytest.mark.parametrize("name", ["a dense layer in the head", "scaled logits"])
def test_the_own_head_has_gradients(name: str):
    model = model_of(FAMILIES[name][0])
    probe(model)
    ids = torch.tensor([1, 9, 8, 7, 6])
    expected = torch.autograd.grad(
        -F.cross_entropy(model(input_ids=ids[None]).logits[0, 2:-1], ids[3:], reduction="sum"),
        [*model.parameters()], allow_unused=True,
    )  # fmt: skip
    total = completion_logprobs(model, [tree([1, 9, 8], [7, 6])]).logprobs.sum()
    found = torch.autograd.grad(total, [*model.parameters()], allow_unused=True)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_model_that_sees_the_tokens_that_follow_is_refused():
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
                                       intermediate_size=48)).eval()  # fmt: skip
    with pytest.raises(UserError, match="BertLMHeadModel cannot be trained: it sees the tokens that follow"):
        probe(model)


def test_a_window_beyond_which_order_decides_is_refused():
    """Doge keeps the keys of the largest weights, and those of equal tokens are equal: which is kept depends on how
    many there are."""
    config = DogeConfig(**WIDE, keep_window_size=40)
    with pytest.raises(UserError, match="DogeForCausalLM cannot be trained: it sees the tokens that follow"):
        probe(model_of(config))
    config.max_position_embeddings = 40  # as that of the published models: no text is longer
    probe(model_of(config))


class ByLength(LlamaForCausalLM):
    """Its numbers depend on how long the longest text of a batch is, as with dynamic rope."""

    def forward(self, input_ids, **options):
        found = super().forward(input_ids, **options)
        found.logits = found.logits * (1 + input_ids.shape[1] / 100)
        return found


class ByHead(LlamaForCausalLM):
    """Its logits follow from more than the last hidden states."""

    def forward(self, input_ids, **options):
        found = super().forward(input_ids, **options)
        found.logits = found.logits + self.model.embed_tokens(input_ids) @ self.lm_head.weight.T
        return found


class Failing(LlamaForCausalLM):
    def forward(self, input_ids, **options):
        raise ValueError("pixel_values are\nneeded")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ByLength, "ByLength cannot be trained: it sees the tokens that follow"),
        (ByHead, "ByHead cannot be trained: the log-probabilities of its own forward cannot be had from"),
        (
            Failing,
            "Failing cannot be trained: its own forward of plain text fails: pixel_values are needed",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_line(kind: type[PreTrainedModel], message: str):
    torch.manual_seed(0)
    model = kind(LlamaConfig(**SHAPE, initializer_range=0.2)).eval()
    with pytest.raises(UserError, match=message) as caught:
        probe(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attempt", range(5))
def test_each_of_the_texts_that_are_tried_tells_what_a_model_can_do(attempt: int):
    """A trial that fails by itself costs four more at every load."""
    trial = Trial(tiny_llama(), attempt)
    with torch.no_grad():
        packed = masked_states(trial.body, trial.packed, trial.packed.attention_mask)
        in_runs = masked_states(trial.body, trial.in_runs, trial.in_runs.attention_mask)
        assert trial.reads_forward() and trial.generates(use_cache=True)
        assert trial.agrees(padded_states(trial.body, trial.packed))
        assert trial.agrees(packed) and trial.agrees(in_runs)
        assert not trial.agrees(packed.roll(1, 0))


def test_narrow_windows_are_the_same_weights_and_another_answer():
    model = model_of(FAMILIES["a window of its own"][0])
    before = torch.get_rng_state()
    narrow: Any = with_narrow_windows(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert (narrow.config.window_size, model.config.window_size) == (WINDOW, 256)
    shared = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    assert {name: weight.data_ptr() for name, weight in narrow.named_parameters()} == shared
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        found, wide = narrow(ids).logits[0], model(ids).logits[0]
    torch.testing.assert_close(found[:WINDOW], wide[:WINDOW])
    assert (found - wide)[WINDOW:].abs().amax(-1).min() > 0.01
    assert with_narrow_windows(tiny_llama()) is None


def test_the_width_of_states_is_that_which_heads_see():
    assert state_size(model_of(FAMILIES["projected states"][0])) == 16
    assert state_size(model_of(GEMMA3)) == 32


def test_agreement_is_to_rounding_and_no_more():
    expected = torch.tensor([1.0, -1.0, 3.0, -torch.inf])
    assert agree(expected + torch.tensor([1e-4, 0.0, -1e-4, 0.0]), expected)
    assert not agree(expected + torch.tensor([0.0, 0.01, 0.0, 0.0]), expected)
    assert not agree(torch.tensor([1.0, -1.0, 3.0, -9.0]), expected)
    assert not agree(torch.tensor([torch.nan, -1.0, 3.0, -torch.inf]), expected)
