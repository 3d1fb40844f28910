"""Where a stage's time goes, step by step and as a summary at its end."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from stages.algorithms.batch import Batch
from stages.distributed import sum_over_ranks
from stages.models.hidden import row_length
from stages.models.one_backbone import REWARD_ADAPTER
from stages.packing import occupancy

WORK = ("tokens", "held", "cells", "flops")
GEMM = 2048  # side of the square matrices whose product measures what the device can do


class Meter:
    """Seconds by phase, and how near training comes to the device's rate of matrix products.

    `perf/mfu` counts the products that the trained tokens need, forward and backward, without attention scores and
    without padding or recomputation (Chowdhery et al. 2022, PaLM, appendix B), over the training seconds alone.
    """

    def __init__(self, policy: nn.Module, device: torch.device, max_tokens: int, bf16: bool) -> None:
        self.policy, self.device, self.max_tokens = policy, device, max_tokens
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.seconds: dict[str, float] = defaultdict(float)  # of the step, by phase
        self.work: dict[str, float] = dict.fromkeys(WORK, 0.0)  # of the step
        self.total: dict[str, float] = defaultdict(float)  # of the stage: seconds by phase, and work

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of this block under `name`."""
        began = self._now()
        yield
        passed = self._now() - began
        self.seconds[name] += passed
        self.total[name] += passed

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def count(self, minibatch: Batch) -> None:
        """Note what is about to be trained on."""
        held, cells = occupancy(minibatch.trees, self.max_tokens, row_length(self.policy))
        tokens = sum(len(tree) for tree in minibatch.trees)
        targets = sum(sum(node.loss_mask) for tree in minibatch.trees for node in tree.completions)
        body, head = self._flops
        for name, amount in zip(WORK, (tokens, held, cells, body * held + head * targets), strict=True):
            self.work[name] += amount

    def step(self) -> dict[str, float]:
        """The step's `perf/...`, its work summed over every rank; starts the next one."""
        here = torch.tensor([*self.work.values(), 1.0], dtype=torch.float64, device=self.device)
        tokens, held, cells, flops, ranks = sum_over_ranks(here).tolist()
        experience, training = self.seconds["experience"], self.seconds["training"]
        for name, amount in zip(WORK, (tokens, held, cells, flops / ranks), strict=True):
            self.total[name] += amount
        self.seconds.clear()
        self.work = dict.fromkeys(WORK, 0.0)
        return {
            "perf/step_seconds": experience + training, "perf/experience_seconds": experience,
            "perf/training_seconds": training, "perf/tokens_per_second": tokens / (experience + training),
            "perf/padding_share": 1 - held / cells, "perf/mfu": flops / ranks / training / self.gemm_rate,
            "perf/peak_memory_gib": self.peak_memory(),
        }  # fmt: skip

    def summary(self) -> str:
        """One line."""
        total, parts = self.total, ("reference", "experience", "training", "evaluation", "checkpoint")
        if not total["cells"]:
            return "nothing was left to train"
        whole = sum(total[name] for name in parts)
        shares = ", ".join(f"{name} {total[name] / whole:.0%}" for name in parts if total[name])
        mfu = total["flops"] / total["training"] / self.gemm_rate
        return (
            f"where {whole:.0f} s went: {shares}; {total['tokens'] / whole:.0f} tokens/s, "
            f"padding {1 - total['held'] / total['cells']:.0%}, training at {mfu:.0%} of "
            f"{self.gemm_rate / 1e12:.2f} TFLOP/s, peak memory {self.peak_memory():.1f} GiB"
        )

    def peak_memory(self) -> float:
        """GiB: of the device, or of this process where it computes on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30

    @cached_property
    def gemm_rate(self) -> float:
        """FLOP/s of a large matrix product in the training precision: the best within half a second, of four at least,
        once per stage. Fewer were up to twice too slow where others share the machine."""
        square = torch.ones(GEMM, GEMM, dtype=self.dtype, device=self.device)
        seconds: list[float] = []
        while len(seconds) < 4 or sum(seconds) < 0.5:
            began = self._now()
            torch.mm(square, square)
            seconds.append(self._now() - began)
        return 2 * GEMM**3 / min(seconds)

    @cached_property
    def _flops(self) -> tuple[int, int]:
        """Per token through the body, and per target through the vocabulary head; forward 2, backward 4 a weight, or 2
        where the weight is frozen."""
        head = getattr(self.policy, "get_output_embeddings", lambda: None)()
        sums = [0, 0]
        for name, module in self.policy.named_modules():
            weight: Any = getattr(module, "weight", None)
            if (
                isinstance(weight, torch.Tensor)
                and not name.endswith(f".{REWARD_ADAPTER}")  # of another model on this backbone
                and not hasattr(module, "base_layer")  # peft's, which shows the weight of the layer within
                and weight.dim() == 2
                and not isinstance(module, nn.Embedding)
            ):
                sums[module is head] += weight.numel() * (6 if weight.requires_grad else 4)
        return sums[0], sums[1]
