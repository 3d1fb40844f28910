"""Gold accuracy on held-out prompts, while RL trains."""

from __future__ import annotations

from collections.abc import Sequence

from stages.algorithms.parts import Parts
from stages.data.examples import Example
from stages.rewards.rewards import Reward, gold


def gold_accuracy(
    parts: Parts, examples: Sequence[Example], verifier: Reward | None, max_new_tokens: int
) -> dict[str, float]:
    """Share of greedy answers that the verifier accepts; nothing, and no sampler, where there is no verifier.

    A training reward can be gamed: this is the number that says whether RL helps.
    """
    if verifier is None or not examples:
        return {}
    prompts = [example.tree.prompt.input_ids for example in examples]
    rollouts = parts.sampler.sample(prompts, 1, max_new_tokens, temperature=0.0)
    right = gold(verifier, examples, [rollout.tree for rollout in rollouts])
    return {"eval/gold_accuracy": float(right.mean())}
