"""Several passes over one batch of experience, in microbatches that are drawn once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from stages.algorithms.batch import Batch
from stages.models.logprobs import Microbatches
from stages.packing import split_trees
from stages.trees import Tree


class Minibatches(NamedTuple):
    """Which trees are trained on together: `parts` in one optimizer step each, `microbatches` in one pass each.

    What is scored before training is scored in the same microbatches. In bf16 a completion beside other completions has
    other last bits, and over its tokens these add up: a ratio of whole completions would be clipped for that alone.
    """

    parts: list[list[int]]
    microbatches: Microbatches

    @classmethod
    def draw(cls, trees: Sequence[Tree], num_mini_batches: int, max_tokens: int) -> Minibatches:
        """Parts that are equal but for one tree, drawn at random where there are several."""
        count = min(num_mini_batches, len(trees))
        order = torch.randperm(len(trees)).tolist() if count > 1 else range(len(trees))
        parts = [[*order[part::count]] for part in range(count)]
        groups = [
            [part[index] for index in group]
            for part in parts
            for group in split_trees([trees[index] for index in part], max_tokens)
        ]
        return cls(parts, groups)

    def epochs(self, batch: Batch, count: int) -> Iterator[Batch]:
        """Each epoch takes every part once, in a new order."""
        for _ in range(count):
            for index in torch.randperm(len(self.parts)).tolist():
                yield batch.take(self.parts[index])
