"""What sampling gives."""

from __future__ import annotations

from dataclasses import dataclass

from stages.trees import Node, Tree


@dataclass(frozen=True)
class Rollout:
    """Completions of one prompt, with the sampler's own log-probabilities."""

    tree: Tree
    logprobs: list[list[float]]  # one list per completion, one number per token
    finished: list[bool]  # False where max_new_tokens came before an end token

    @classmethod
    def of(
        cls,
        prompt: list[int],
        completions: list[list[int]],
        logprobs: list[list[float]],
        finished: list[bool],
    ) -> Rollout:
        """From token ids: the prompt is given, every token of a completion is sampled."""
        nodes = [Node(ids, [True] * len(ids)) for ids in completions]
        return cls(Tree(Node(prompt, [False] * len(prompt)), nodes), logprobs, finished)
