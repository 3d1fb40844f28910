"""Kahneman-Tversky optimization: completions that are good or bad, each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from stages.algorithms.base import Loss, WithReference
from stages.algorithms.batch import Batch
from stages.algorithms.pairs import desirable
from stages.algorithms.parts import Parts
from stages.config.errors import UserError
from stages.config.schema import OfflineSettings
from stages.data.examples import Example
from stages.distributed import sum_over_ranks
from stages.losses.preference import kto
from stages.models.logprobs import sequence_logprobs
from stages.trees import Node, Tree


class Settings(OfflineSettings):
    """KTO's own knobs; meanings and sources in conf/rl/kto.yaml."""

    beta: float = Field(gt=0)
    desirable_weight: float = Field(ge=0)
    undesirable_weight: float = Field(ge=0)


@dataclass(frozen=True)
class Matched(Example):
    """An example, and its prompt with all completions of another one."""

    mismatched: Tree


class KTO(WithReference):
    """Ethayarajh et al. 2024; the unit is a completion.

    The reference point z0 is the KL to the reference, estimated as in the paper on completions of other prompts, once
    per step and over every process. Which prompt meets which completions is drawn once for a run: so z0 does not depend
    on how a step is shared out, and the reference is computed once.
    """

    Settings = Settings
    offline = True

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings

    def prepare(self, examples: Sequence[Example], seed: int) -> list[Matched]:
        return matched(examples, seed)

    def reference_trees(self, batch: Batch) -> list[Sequence[Tree]]:
        return [batch.trees, _mismatched(batch)]

    def experience(self, batch: Batch) -> Iterator[Batch]:
        mismatched = _mismatched(batch)
        policy = sequence_logprobs(self.policy, mismatched, max_tokens=self.settings.max_tokens)
        kl = self._reference_point(policy - self.reference.logprobs(mismatched))
        self.observe("objective/kl_mismatched", kl)
        reference = self.reference.logprobs(batch.trees)
        good = desirable(batch).to(reference.device)
        yield batch.with_fields(
            ref_logprobs=reference,
            kl=kl.expand(len(reference)),
            chosen=_weights(good),
            rejected=_weights(~good),
        )

    def _reference_point(self, logratios: Tensor) -> Tensor:
        """max(0, mean) over the completions of every process."""
        total, count = sum_over_ranks(torch.stack([logratios.sum(), logratios.new_tensor(len(logratios))]))
        return (total / count).clamp(min=0)

    def forward(self, batch: Batch) -> Loss:
        settings = self.settings
        logratios = sequence_logprobs(self.policy, batch.trees) - batch["ref_logprobs"]
        good = desirable(batch).to(logratios.device)
        losses = kto(
            logratios, good, batch["kl"], beta=settings.beta,
            desirable_weight=settings.desirable_weight, undesirable_weight=settings.undesirable_weight,
        )  # fmt: skip
        rewards = settings.beta * logratios.detach()
        metrics = {
            f"objective/rewards/{side}": (rewards * batch[side]).sum() for side in ("chosen", "rejected")
        }
        metrics["train/accuracy"] = ((logratios > batch["kl"]) == good).sum()
        return Loss(losses.sum(), losses.new_tensor(len(losses)), metrics)


def matched(examples: Sequence[Example], seed: int) -> list[Matched]:
    """Each example with the completions of the next in a circle of all, which is drawn at random.

    Those are cut where the sequence would be longer than any example's own, for longer ones may not fit the model.
    Raises UserError where there is one prompt.
    """
    if len(examples) < 2:
        raise UserError(
            "data.preference: kto takes its KL on completions of other prompts, and there is one prompt"
        )
    longest = max(_longest(example.tree) for example in examples)
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples)).tolist()
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [
        Matched(
            **vars(example), mismatched=_cut(example.tree.prompt, examples[following[index]].tree, longest)
        )
        for index, example in enumerate(examples)
    ]


def _mismatched(batch: Batch) -> list[Tree]:
    return [example.mismatched for example in batch.examples if isinstance(example, Matched)]


def _longest(tree: Tree) -> int:
    return len(tree.prompt.input_ids) + max(len(node.input_ids) for node in tree.completions)


def _cut(prompt: Node, other: Tree, longest: int) -> Tree:
    """The prompt with the other tree's completions, in sequences of at most `longest` tokens."""
    room = longest - len(prompt.input_ids)
    return Tree(prompt, [Node(node.input_ids[:room], node.loss_mask[:room]) for node in other.completions])


def _weights(side: Bool[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """With which a mean over all completions of the step, on every process, is one over this side of them. NaN where
    it has none."""
    count, total = sum_over_ranks(torch.stack([side.sum(), side.new_tensor(len(side), dtype=torch.long)]))
    return side * (total / count)
