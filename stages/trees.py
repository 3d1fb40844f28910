"""The one type of all data: a tree of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A run of tokens, and which of them the model is trained on."""

    input_ids: list[int]
    loss_mask: list[bool]


@dataclass(frozen=True)
class Tree:
    """A prompt and the completions that share it."""

    prompt: Node
    completions: list[Node]

    def __len__(self) -> int:
        return len(self.prompt.input_ids) + sum(len(node.input_ids) for node in self.completions)


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """How many first tokens all sequences share."""
    first, last = min(sequences), max(sequences)  # whatever these two share, all between them share
    return next(
        (index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
