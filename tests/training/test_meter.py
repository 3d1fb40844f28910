"""What a step's seconds and work come to, by hand."""

from __future__ import annotations

import time

import pytest
import torch
from peft import LoraConfig, get_peft_model

from stages.algorithms.batch import batch_of
from stages.data.examples import Example
from stages.packing import occupancy, pack
from stages.training.meter import Meter
from tests.algorithms.tiny import examples_of
from tests.models.tiny import tiny_llama, tree


def test_a_layer_with_an_adapter_is_counted_once():
    """4 FLOP for a frozen weight of 8 x 8, and 6 for two trained ones of 2 x 8."""

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 8)

    policy = get_peft_model(Policy(), LoraConfig(r=2, target_modules=["layer"]))
    assert Meter(policy, torch.device("cpu"), 100, bf16=False)._flops == (4 * 64 + 6 * 2 * 16, 0)


@pytest.mark.parametrize("max_tokens", [30, 100_000])
def test_occupancy_is_that_of_the_packed_rows(max_tokens: int):
    batch = batch_of(examples_of("dpo"))
    parts = [pack(part.trees) for part in batch.split(max_tokens)]
    held = sum(int((packed.tree != -1).sum()) for packed in parts)
    assert occupancy(batch.trees, max_tokens) == (held, sum(packed.input_ids.numel() for packed in parts))


def test_work_of_one_step_by_hand():
    """A linear layer of 3 x 5 and a head of 5 x 7 without a name: 6 FLOP a weight and token; frozen weights cost 4."""

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 3)
            self.body = torch.nn.Linear(3, 5, bias=False)
            self.frozen = torch.nn.Linear(5, 5, bias=False).requires_grad_(False)
            self.head = torch.nn.Linear(5, 7, bias=False)

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.head

    meter = Meter(Policy(), torch.device("cpu"), 100, bf16=False)
    meter.__dict__["gemm_rate"] = 1000.0
    examples = [
        Example(tree([1, 2, 3], [4, 5], [6]), "", None, {}),
        Example(tree([1, 2, 9], [4]), "", None, {}),
    ]
    with meter.phase("experience"):
        time.sleep(0.02)
    with meter.phase("training"):
        time.sleep(0.05)
    meter.count(batch_of(examples))
    metrics = meter.step()
    # one row: 2 shared tokens, then 1 + 3 and 1 + 1; 10 tokens stand in the trees, 4 of them are targets
    held, targets = 8, 4
    flops = held * (6 * 15 + 4 * 25) + targets * 6 * 35
    assert metrics["perf/mfu"] == pytest.approx(flops / metrics["perf/training_seconds"] / 1000.0)
    assert metrics["perf/padding_share"] == 0
    assert metrics["perf/tokens_per_second"] == pytest.approx(10 / metrics["perf/step_seconds"])
    assert 0.07 <= metrics["perf/step_seconds"] < 5
    assert metrics["perf/peak_memory_gib"] > 0.05
    with meter.phase("evaluation"):
        time.sleep(0.03)
    assert "evaluation" in meter.summary() and "padding 0%" in meter.summary()
    meter.count(batch_of(examples))
    with meter.phase("training"):
        pass
    assert meter.step()["perf/experience_seconds"] == 0  # each step begins anew, evaluation is no part of it


def test_the_rate_of_products_is_measured():
    assert 1e9 < Meter(tiny_llama(), torch.device("cpu"), 100, bf16=False).gemm_rate < 1e16
