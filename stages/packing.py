"""Trees of tokens, and how they are laid into rows under a token budget."""

from __future__ import annotations

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
