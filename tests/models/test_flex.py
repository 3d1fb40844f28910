"""Block masks and flex_attention against dense masks and sdpa. On the CPU flex runs uncompiled; kernels need a GPU."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import AutoModelForCausalLM, PreTrainedModel

from stages.models import flex, hidden
from stages.models.flex import LONG_ROW, block_mask, eager_flex, flex_runs
from stages.models.hidden import backbone, hidden_states, row_length
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from stages.packing import PADDING, ROW_LENGTH, pack
from stages.trees import Tree
from tests.models.test_fallback import CONFIGS as UNFIT
from tests.models.test_trees import CONFIGS
from tests.models.tiny import tiny_llama, tree

DENSE = ["gemma2", "gpt2"]  # eager attention; a model that asks its mask for `ndim`
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


def trees(seed: int, count: int = 7, prefix: int = 9) -> list[Tree]:
    """Prompts that begin alike, each with one to four completions of 1 to 60 tokens."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 97) for _ in range(rng.randint(low, high))]

    shared = ids(prefix, prefix)
    return [tree(shared + ids(0, 40), *(ids(1, 60) for _ in range(rng.randint(1, 4)))) for _ in range(count)]


@pytest.fixture
def sparse(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Have the CPU take blocks for rows of any length; the windows that were asked for."""
    windows: list[int | None] = []

    def counted(packed: Any, window: int | None = None) -> BlockMask:
        windows.append(window)
        return block_mask(packed, window)

    monkeypatch.setattr(hidden, "BLOCKS_PAY", 1)
    monkeypatch.setattr(hidden, "_skips_blocks", lambda body: hasattr(body, "takes_trees"))
    monkeypatch.setattr(hidden, "block_mask", counted)
    return windows


@pytest.mark.parametrize("window", [None, 1, 13])
@pytest.mark.parametrize("length", [ROW_LENGTH, 4096])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_are_the_dense_mask(seed: int, length: int, window: int | None):
    packed = pack(trees(seed, prefix=seed * 3), row_length=length)
    with eager_flex():
        blocks = block_mask(packed, window)
    rows, columns = packed.input_ids.shape
    assert blocks.shape == (rows, 1, columns, columns)
    dense = create_mask(blocks.mask_mod, rows, None, columns, columns, "cpu")
    assert torch.equal(dense, packed.attention_mask(window))
    tiles = torch.nn.functional.pad(dense, (0, -columns % 128, 0, -columns % 128)).unfold(2, 128, 128)
    assert torch.equal(blocks.to_dense().bool(), tiles.unfold(3, 128, 128).any(-1).any(-1))


def test_of_many_trees_in_a_row_most_blocks_are_skipped():
    packed = pack(trees(0, count=40), row_length=4096)
    assert packed.input_ids.shape[0] == 1
    with eager_flex():
        assert block_mask(packed).sparsity() > 70  # per cent


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in DENSE])
def test_every_family_s_states_are_those_of_sdpa(name: str, sparse: list[int | None]):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    packed = pack(trees(1), row_length=512)
    body = backbone(model)
    with torch.no_grad(), eager_flex():
        dense = hidden.masked_states(body, packed, packed.attention_mask)
        body.takes_trees = True
        found = hidden_states(model, packed)
    assert sparse != []
    held = (packed.tree != PADDING).flatten()
    torch.testing.assert_close(found[held], dense[held], rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_sdpa_recomputed_too(
    sparse: list[int | None], monkeypatch: pytest.MonkeyPatch
):
    """torch has no fast backward on the CPU and refuses one; the slow one that it refuses is right."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)

    def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
        with eager_flex():
            found = completion_logprobs(model, trees(2))
            weights = torch.linspace(-1, 2, int(found.mask.sum()))
            (found.logprobs[found.mask] * weights).sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    expected = gradients(tiny_llama(max_position_embeddings=512))
    for recompute in (False, True):
        model = tiny_llama(max_position_embeddings=512).train()
        backbone(model).takes_trees = True
        if recompute:
            model.activation_checkpointing_enable()
        found = gradients(model)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4)
    assert sparse == [None, None]


def test_under_autocast_it_computes_in_bfloat16_as_sdpa_does(sparse: list[int | None]):
    model, packed = tiny_llama(max_position_embeddings=512), pack(trees(3))
    with torch.no_grad(), eager_flex(), torch.autocast("cpu", torch.bfloat16):
        dense = hidden_states(model, packed)
        backbone(model).takes_trees = True
        found = hidden_states(model, packed)
    assert sparse == [None]
    held = (packed.tree != PADDING).flatten()
    assert (found[held] - dense[held]).norm() < 0.02 * dense[held].norm()


def test_probe_finds_out_who_takes_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    taking = {}
    for name, config in (CONFIGS | UNFIT).items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        probe(model)
        taking[name] = getattr(backbone(model), "takes_blocks", False)
        assert row_length(model) == (
            ROW_LENGTH if name in ("gemma2", *UNFIT) else None
        )  # its weights are on the CPU
    assert [name for name, takes in taking.items() if not takes] == [*DENSE, *UNFIT]


def test_a_gpu_that_cannot_is_found_out_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*arguments: object) -> None:
        raise RuntimeError("no C compiler\nfound on this machine")

    monkeypatch.setattr(flex, "flex_attention_forward", broken)
    flex_runs.cache_clear()
    with eager_flex(), caplog.at_level(logging.WARNING):
        assert not flex_runs(torch.device("cpu"), 8)
        assert not flex_runs(torch.device("cpu"), 8)
    flex_runs.cache_clear()
    (message,) = [record.message for record in caplog.records]
    assert "dense masks (same result, slower): no C compiler" in message


def test_the_trial_passes_where_flex_runs_and_leaves_the_random_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    before = torch.get_rng_state()
    with eager_flex(), torch.no_grad():
        assert flex_runs(torch.device("cpu"), 16)
    flex_runs.cache_clear()
    assert torch.equal(torch.get_rng_state(), before)


@GPU
@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_gpu_logprobs_and_gradients_are_those_of_dense_masks(bf16: bool):
    batch = trees(4, count=30)
    results = []
    for blocks in (True, False):
        model = tiny_llama(max_position_embeddings=512, hidden_size=64).cuda()
        probe(model)
        assert backbone(model).takes_blocks and row_length(model) == LONG_ROW
        backbone(model).takes_blocks = blocks
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            logprobs = completion_logprobs(model, batch).logprobs
        logprobs.square().sum().backward()
        results.append([logprobs, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() < (0.05 if bf16 else 1e-3) * theirs.norm()
