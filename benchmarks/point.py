"""One measured point: random trees forward and backward through a model of random weights, in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.works import BF16
from stages.algorithms.batch import Batch
from stages.losses.language_modeling import negative_log_likelihood
from stages.models.block import keep_less
from stages.models.hidden import probe
from stages.models.logprobs import completion_logprobs
from stages.packing import Node, Tree
from stages.training.meter import Meter

IGNORED = -100  # transformers' label of a token that is not trained on
SIDES = ("trees", "padded rows")


@dataclass(frozen=True)
class Shape:
    """A model's config, as `AutoConfig.for_model` takes it, and what is put through it: `prompts` trees."""

    model: dict[str, Any]
    prompts: int
    prompt_tokens: int
    completion_tokens: int
    group: int = 1

    @property
    def tokens(self) -> int:
        """Of all sequences, a prompt counted with each of its completions."""
        return self.prompts * self.group * (self.prompt_tokens + self.completion_tokens)


def measure(shape: Shape, side: str, repeats: int) -> dict[str, float]:
    """Of one side: tokens/s of the median pass, peak memory in GiB, MFU, and the model's parameters."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, shape, side, repeats).result()


def _measure(shape: Shape, side: str, repeats: int) -> dict[str, float]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape.model), dtype=torch.float32).to(
        device
    )
    if side == "trees":
        keep_less(model)
    probe(model)
    trees = random_trees(shape)
    meter = Meter(model, device, shape.tokens, bf16=BF16)
    loss = {"trees": tree_loss, "padded rows": padded_loss}[side](model, trees)
    passes = [_pass(model, loss, trees, meter) for _ in range(repeats + 1)][1:]  # the first warms up
    seconds, mfu = (statistics.median(values) for values in zip(*passes, strict=True))
    return {
        "tokens_per_second": shape.tokens / seconds, "memory_gib": meter.peak_memory(), "mfu": mfu,
        "parameters": model.num_parameters(),
    }  # fmt: skip


def _pass(
    model: nn.Module, loss: Callable[[], Tensor], trees: Sequence[Tree], meter: Meter
) -> tuple[float, float]:
    """Seconds, and MFU of what the trees need, whichever side computes it."""
    model.zero_grad()
    meter.count(Batch([], trees))
    with meter.phase("training"):
        with torch.autocast(meter.device.type, torch.bfloat16, enabled=BF16):
            total = loss()
        total.backward()
    metrics = meter.step()
    return metrics["perf/step_seconds"], metrics["perf/mfu"]


def random_trees(shape: Shape) -> list[Tree]:
    def run(length: int, trained: bool) -> Node:
        return Node(torch.randint(shape.model["vocab_size"], (length,)).tolist(), [trained] * length)

    return [
        Tree(
            run(shape.prompt_tokens, False),
            [run(shape.completion_tokens, True) for _ in range(shape.group)],
        )
        for _ in range(shape.prompts)
    ]


def tree_loss(model: Any, trees: Sequence[Tree]) -> Callable[[], Tensor]:
    """As our stages compute it: packed trees, the vocabulary head on targets alone."""

    def loss() -> Tensor:
        logprobs, mask, _ = completion_logprobs(model, trees)
        return negative_log_likelihood(logprobs, mask).sum() / mask.sum()

    return loss


def padded_loss(model: Any, trees: Sequence[Tree]) -> Callable[[], Tensor]:
    """As transformers computes it by itself: one row per completion, and labels."""
    rows = [(tree.prompt.input_ids, node.input_ids) for tree in trees for node in tree.completions]

    def padded(values: list[list[int]], padding: int) -> Tensor:
        tensors = [torch.tensor(value, device=model.device) for value in values]
        return pad_sequence(tensors, batch_first=True, padding_value=padding)

    batch = {
        "input_ids": padded([prompt + answer for prompt, answer in rows], 0),
        "attention_mask": padded([[1] * len(prompt + answer) for prompt, answer in rows], 0),
        "labels": padded([[IGNORED] * len(prompt) + answer for prompt, answer in rows], IGNORED),
    }
    return lambda: model(**batch, use_cache=False).loss
