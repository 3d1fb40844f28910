"""One measured point: random trees forward and backward through a model of random weights, in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.works import BF16
from stages.algorithms.batch import Batch
from stages.losses.language_modeling import negative_log_likelihood
from stages.models.block import keep_less
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from stages.training.meter import Meter
from stages.trees import Node, Tree

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


def measure(shape: Shape, repeats: int) -> dict[str, dict[str, float]]:
    """Of each side: tokens/s of the median pass, peak memory in GiB, MFU, and the model's parameters.

    Each has a process of its own, and their passes take turns, so that a noisy machine hurts both alike.
    """
    with ExitStack() as stack:
        pools = {
            side: stack.enter_context(
                ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(shape, side))
            )
            for side in SIDES
        }
        for _ in range(repeats + 1):
            for pool in pools.values():
                pool.submit(_take).result()
        found = {side: pool.submit(_found).result() for side, pool in pools.items()}
    rate = max(each.pop("flops_per_second_at_best") for each in found.values())
    for each in found.values():
        each["mfu"] = each.pop("flops_per_second") / rate
    return found


class _Point:
    """One side of a point, in its process. The first pass warms up, and is not counted."""

    def __init__(self, shape: Shape, side: str) -> None:
        torch.manual_seed(0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape.model), dtype=torch.float32)
        self.model = model.to(device)
        if side == "trees":
            keep_less(model)
        probe(model)
        self.tokens, self.trees = shape.tokens, random_trees(shape)
        self.meter = Meter(model, device, shape.tokens, bf16=BF16)
        self.loss = {"trees": tree_loss, "padded rows": padded_loss}[side](model, self.trees)
        self.passes: list[tuple[float, float]] = []

    def take(self) -> None:
        """A pass; what counts as its work is what the trees need, whichever side computes it."""
        self.model.zero_grad()
        self.meter.count(Batch([], self.trees))
        with self.meter.phase("training"):
            with torch.autocast(self.meter.device.type, torch.bfloat16, enabled=BF16):
                total = self.loss()
            total.backward()
        metrics = self.meter.step()
        self.passes.append((metrics["perf/step_seconds"], metrics["perf/mfu"]))

    def found(self) -> dict[str, float]:
        seconds, mfu = (statistics.median(values) for values in zip(*self.passes[1:], strict=True))
        return {
            "tokens_per_second": self.tokens / seconds, "memory_gib": self.meter.peak_memory(),
            "parameters": self.model.num_parameters(), "flops_per_second": mfu * self.meter.gemm_rate,
            "flops_per_second_at_best": self.meter.gemm_rate,
        }  # fmt: skip


_points: list[_Point] = []  # of this process


def _begin(shape: Shape, side: str) -> None:
    _points.append(_Point(shape, side))


def _take() -> None:
    _points[0].take()


def _found() -> dict[str, float]:
    return _points[0].found()


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
