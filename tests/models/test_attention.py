"""The backward of our CPU attention, against autograd through the fused kernel and through plain products."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages import runs as runs_module
from stages.models import attention as attention_module
from stages.models.attention import _row_backward, attention
from stages.models.logprobs import completion_logprobs
from stages.packing import pack
from tests.models.tiny import tiny_llama, tree


class Causal(torch.nn.Module):
    """As far as attention looks at the layer that asks."""

    is_causal = True


def inputs(dtype: torch.dtype, shared: int = 2, length: int = 11) -> list[Tensor]:
    """Queries of 6 heads, keys and values of `shared`, a tree's mask (two completions that do not see each other),
    and a gradient."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 6, length, 16), (2, shared, length, 16), (2, shared, length, 16), (2, length, 6, 16)]
    query, key, value, gradient = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    seen = torch.ones(2, 1, length, length, dtype=torch.bool).tril()
    seen[0, :, 7:, 4:7] = False
    seen[1, :, 5:, 2:5] = False
    mask = torch.zeros(2, 1, length, length, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    return [each.to(dtype) for each in (query, key, value, mask, gradient)]


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    return ((query @ key.transpose(-1, -2) * scaling + mask).softmax(-1) @ value).transpose(1, 2)


def gradients(function, query: Tensor, key: Tensor, value: Tensor, gradient: Tensor) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in (query, key, value)]
    function(*leaves).backward(gradient.to(query.dtype))
    return [each.grad for each in leaves]  # type: ignore[misc]


@pytest.mark.parametrize("shared", [1, 2, 6])
@pytest.mark.parametrize(("length", "blocks"), [(11, 1), (40, 2), (41, 3), (75, 5)])
def test_gradients_are_those_of_plain_products(
    shared: int, length: int, blocks: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runs_module, "BLOCK", 16)
    assert len([*runs_module.blocks(length, None)]) == blocks
    query, key, value, mask, gradient = inputs(torch.float64, shared, length)

    def ours(*states: Tensor) -> Tensor:
        return attention(Causal(), *states, mask, scaling=0.3)[0]

    def theirs(*states: Tensor) -> Tensor:
        return plain(*states, mask, 0.3)

    learning = query.requires_grad_()
    torch.testing.assert_close(ours(learning, key, value), theirs(query, key, value), rtol=1e-9, atol=1e-12)
    found, expected = (gradients(f, query, key, value, gradient) for f in (ours, theirs))
    for mine, exact in zip(found, expected, strict=True):
        assert exact.abs().max() > 0.1
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("run", "shared", "completions", "bounds", "held"),
    [
        (30, 3, ([30, 27], [30, 5], [30], [2]), [3, 61, 97, 145], 131),
        (10, 50, ([35], [20], [5], [4]), [50, 86, 107, 123], 118),
        (
            5,
            50,
            ([9], [7], [5]),
            [50, 60, 68, 84],
            74,
        ),  # the shared cells' tiles, 64, reach past the first run
    ],
)
def test_in_runs_gradients_are_those_of_the_whole_row(
    run: int, shared: int, completions: Any, bounds: list[int], held: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runs_module, "RUN", run)
    monkeypatch.setattr(runs_module, "BLOCK", 32)
    prompts = [[3] * shared + [6 + i] for i in range(len(completions))]
    trees = [
        tree(prompt, *([7] * size for size in sizes))
        for prompt, sizes in zip(prompts, completions, strict=True)
    ]
    packed = pack(trees, row_length=None)
    assert packed.runs is not None and packed.runs.tolist() == bounds
    seen = replace(packed, runs=None).attention_mask()[:, :, :held, :held]
    query, key, value, _, gradient = (each[:1] for each in inputs(torch.float64, 2, bounds[-1]))
    gradient[:, held:] = 0  # padding
    bias, whole = (
        torch.zeros(mask.shape, dtype=torch.float64).masked_fill_(~mask, -torch.inf)
        for mask in (packed.attention_mask(), seen)
    )

    def ours(*states: Tensor) -> Tensor:
        return attention(Causal(), *states, bias, packed.runs, scaling=0.3)[0]

    def theirs(*states: Tensor) -> Tensor:
        found = plain(*(each[:, :, :held] for each in states), whole, 0.3)
        return F.pad(found, (0, 0, 0, 0, 0, bounds[-1] - held))

    torch.testing.assert_close(
        ours(query, key, value)[:, :held], theirs(query, key, value)[:, :held], rtol=1e-9, atol=1e-12
    )
    found, expected = (gradients(f, query, key, value, gradient) for f in (ours, theirs))
    for mine, exact in zip(found, expected, strict=True):
        assert exact.abs().max() > 0.1
        torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 10, 50])
def test_in_bf16_they_are_as_close_as_the_fused_kernels(size: int):
    """Also where scores are large: models with biased keys have some in the hundreds."""
    query, key, value, mask, gradient = inputs(torch.bfloat16)
    key = key * size

    def ours(*states: Tensor) -> Tensor:
        return attention(Causal(), *states, mask)[0]

    def fused(*states: Tensor) -> Tensor:
        query, *rest = states
        key, value = (each.repeat_interleave(3, 1) for each in rest)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)

    def exact(*states: Tensor) -> Tensor:
        return plain(*states, mask.double(), 0.25)

    wide = [each.double() for each in (query, key, value)]
    truth = gradients(exact, *wide, gradient.double())
    errors = [
        [float((f.double() - t).norm() / t.norm()) for f, t in zip(found, truth, strict=True)]
        for found in (gradients(f, query, key, value, gradient) for f in (ours, fused))
    ]
    assert all(mine < 2 * theirs + 1e-3 for mine, theirs in zip(*errors, strict=True)), errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shared", [1, 2, 6])
def test_the_operator_keeps_what_torch_asks_of_one(dtype: torch.dtype, shared: int):
    """Its schema, its shapes while tracing, its gradient: what torch.compile relies on."""
    query, key, value, mask, _ = inputs(dtype, shared)
    leaves = [each.requires_grad_() for each in (query, key, value)]
    for runs in (None, torch.tensor([0, 11])):
        torch.library.opcheck(attention_module._attention, (*leaves, mask, runs, 0.25))


@pytest.mark.parametrize("recompute", [False, True])
def test_training_learns_by_it_what_plain_attention_learns(monkeypatch: pytest.MonkeyPatch, recompute: bool):
    trees = [tree([5, 6, 7], [8, 9], [10, 11, 12]), tree([13, 14], [15, 16, 17])]
    ours, theirs = tiny_llama().train(), tiny_llama().train()
    theirs.set_attn_implementation("eager")
    if recompute:
        ours.activation_checkpointing_enable()
    rows: list[int] = []
    monkeypatch.setattr(
        attention_module,
        "_row_backward",
        lambda *row, **options: (rows.append(1), _row_backward(*row, **options))[1],
    )
    for model in (ours, theirs):
        completion_logprobs(model, trees).logprobs.sum().backward()
    assert len(rows) == ours.config.num_hidden_layers  # both trees share a row
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "per_head"),
    [({"dropout": 0.5}, False), ({"position_bias": torch.ones(1)}, False), ({}, True)],
)
def test_what_has_more_than_our_mask_is_left_to_transformers(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], per_head: bool
):
    query, key, value, mask, _ = inputs(torch.float32)
    mask = (mask.expand(-1, 6, -1, -1).clone() if per_head else mask).requires_grad_(per_head)
    asked: list[int] = []
    monkeypatch.setattr(
        attention_module,
        "sdpa_attention_forward",
        lambda _, query, *__, **___: (asked.append(1) or query, None),
    )
    attention(Causal(), query.requires_grad_(), key, value, mask, **options)
    assert asked
    with pytest.raises(ValueError, match="Causal cannot be computed in runs"):
        attention(Causal(), query, key, value, mask, torch.tensor([0, 11]), **options)


def test_an_encoder_sees_what_follows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs_module, "BLOCK", 16)
    query, key, value, _, _ = inputs(torch.float64, 6, 40)
    everything = torch.zeros(2, 1, 40, 40, dtype=torch.float64)
    layer = Causal()
    layer.is_causal = False
    found, _ = attention(layer, query.requires_grad_(), key, value, everything, scaling=0.3)
    torch.testing.assert_close(found, plain(query, key, value, everything, 0.3))
