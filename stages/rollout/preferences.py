"""Preferences where there are none yet: completions sampled from a policy, ranked by a verifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from stages.data.examples import Example, has_pair
from stages.data.settings import SamplingSettings
from stages.rollout.rollout import Rollout
from stages.rollout.sampler import Sampler
from stages.trees import Tree


def rank_samples(
    examples: Sequence[Example], sampler: Sampler, settings: SamplingSettings,
    gold: Callable[[Sequence[Example], Sequence[Tree]], Float[Tensor, " batch"]],
) -> list[Example]:  # fmt: skip
    """Each example's completions and distinct samples beside them, all scored by `gold`.

    A sample that was cut off before its end scores 0: chosen, it would teach not to stop. A prompt whose completions
    all score alike says nothing about preference and is left out.
    """
    prompts = [example.tree.prompt.input_ids for example in examples]
    rollouts = sampler.sample(
        prompts, settings.num_generations, settings.max_new_tokens, settings.temperature
    )
    trees = [
        _distinct(Tree(example.tree.prompt, [*example.tree.completions, *rollout.tree.completions]))
        for example, rollout in zip(examples, rollouts, strict=True)
    ]
    scores = iter(gold(examples, trees).tolist())
    ranked = [
        replace(example, tree=tree, scores=[next(scores) * ended for ended in _ended(tree, rollout)])
        for example, tree, rollout in zip(examples, trees, rollouts, strict=True)
    ]
    return [example for example in ranked if has_pair(example)]


def _ended(tree: Tree, rollout: Rollout) -> list[bool]:
    """For each completion of `tree`, that it is not one of the rollout's that were cut off."""
    sampled = zip(rollout.tree.completions, rollout.finished, strict=True)
    cut = {tuple(node.input_ids) for node, finished in sampled if not finished}
    return [tuple(node.input_ids) not in cut for node in tree.completions]


def _distinct(tree: Tree) -> Tree:
    kept = {tuple(node.input_ids): node for node in tree.completions}
    return Tree(tree.prompt, list(kept.values()))
