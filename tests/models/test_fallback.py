"""Models that take no tree mask: padded rows give what one completion alone gives, without a word of the caller's."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from stages.models.hidden import attention_masks, backbone
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from tests.models.tiny import tiny_llama, tree

CONFIGS = {
    "mamba": MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8),
    "bloom": BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
}
TREES = [tree([1, 9, 8], [7, 6, 5], [11, 2]), tree([1, 9], [30, 31, 32, 2]), tree([1, 9, 40], [5])]


@pytest.mark.parametrize("name", CONFIGS)
def test_padded_rows_have_the_logprobs_and_gradients_of_each_row_alone(name: str, caplog):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with caplog.at_level(logging.WARNING):
        probe(model)
    assert not backbone(model).takes_trees
    assert [record.message for record in caplog.records if "no tree mask" in record.message] != []

    expected = []
    for one in TREES:
        for completion in one.completions:
            ids = torch.tensor(one.prompt.input_ids + completion.input_ids)
            start = len(one.prompt.input_ids)
            logits = model(ids[None]).logits[0, start - 1 : -1]
            expected.append(-F.cross_entropy(logits, ids[start:], reduction="none"))
    weights = torch.linspace(-1, 2, 10)
    (torch.cat(expected) * weights).sum().backward()
    gradients = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()

    ours = completion_logprobs(model, TREES)
    (ours.logprobs[ours.mask] * weights).sum().backward()
    torch.testing.assert_close(ours.logprobs[ours.mask], torch.cat(expected), rtol=1e-5, atol=1e-5)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-5)


def test_a_kind_of_layer_that_sees_neither_all_nor_a_window_gets_no_mask_of_ours():
    model = tiny_llama()
    model.config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(ValueError, match="chunked_attention"):
        attention_masks(backbone(model), lambda _: torch.ones(1, 1, 2, 2, dtype=torch.bool), torch.float32)
