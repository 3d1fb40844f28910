"""What sampling gives."""

from __future__ import annotations

from dataclasses import dataclass

from stages.packing import Tree


@dataclass(frozen=True)
class Rollout:
    """Completions of one prompt, with the sampler's own log-probabilities."""

    tree: Tree
    logprobs: list[list[float]]  # one list per completion, one number per token
    finished: list[bool]  # False where max_new_tokens came before an end token
