"""Scoring: batch, order, budget and temperature change nothing that they should not."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import entropy
from transformers import AutoModelForCausalLM, GPT2Config

import stages.models.logprobs as module
from stages.models.logprobs import completion_logprobs
from tests.models.tiny import tiny_llama, tree

TREES = [tree([1, 9, 8], [7, 6, 5], [11, 2]), tree([1, 20], [30, 31, 32, 2]), tree([1, 9], [2])]


def gpt2():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)).eval()


@pytest.mark.parametrize("make", [tiny_llama, gpt2])
def test_company_in_the_batch_changes_nothing(make):
    """Learnt absolute positions (GPT-2) are the ones that padding without position ids shifts."""
    model = make()
    with torch.no_grad():
        together = completion_logprobs(model, TREES)
        singles = [tree(t.prompt.input_ids, c.input_ids) for t in TREES for c in t.completions]
        alone = [completion_logprobs(model, [single]) for single in singles]
    assert together.mask.sum(1).tolist() == [3, 2, 4, 1]
    for row, single in enumerate(alone):
        width = single.logprobs.shape[1]
        torch.testing.assert_close(together.logprobs[row, :width], single.logprobs[0], rtol=1e-5, atol=1e-5)
        assert not together.logprobs[row, width:].any()


def test_budget_and_chunks_change_nothing(monkeypatch):
    model = tiny_llama()
    whole = completion_logprobs(model, TREES)
    whole.logprobs.sum().backward()
    gradient = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    monkeypatch.setattr(module, "HEAD_CHUNK", 2)  # recomputed in the backward pass
    parts = completion_logprobs(model, TREES, max_tokens=5)
    parts.logprobs.sum().backward()
    for ours, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, gradient, rtol=1e-4, atol=1e-5)


def test_entropy_and_temperature_against_scipy():
    model = tiny_llama()
    with torch.no_grad():
        scored = completion_logprobs(model, [tree([1, 9], [30, 31])], temperature=0.5)
        logits = model(torch.tensor([[1, 9, 30, 31]])).logits[0]
    for position, token in ((1, 30), (2, 31)):
        weights = (logits[position].double() * 2).exp()  # 1 / 0.5
        expected = float((weights[token] / weights.sum()).log())
        assert scored.logprobs[0, position - 1].item() == pytest.approx(expected, abs=1e-5)
        assert scored.entropy[0, position - 1].item() == pytest.approx(entropy(weights.numpy()), abs=1e-4)
    assert not scored.entropy.requires_grad
