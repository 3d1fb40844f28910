"""Kahneman-Tversky optimization: completions that are good or bad, each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
from stages.distributed import sum_over_ranks
from stages.losses.preference import kto
from stages.models.logprobs import sequence_logprobs
from stages.trees import Tree


class Settings(OfflineSettings):
    """KTO's own knobs; meanings and sources in conf/rl/kto.yaml."""

    batch_size: int = Field(ge=2)  # a prompt meets another one's completion
    beta: float = Field(gt=0)
    desirable_weight: float = Field(ge=0)
    undesirable_weight: float = Field(ge=0)


class KTO(WithReference):
    """Ethayarajh et al. 2024; the unit is a completion.

    The reference point z0 is the KL to the reference, estimated as in the paper on completions of other prompts, once
    per step and over every process.
    """

    Settings = Settings
    offline = True

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings

    def reference_trees(self, batch: Batch) -> list[Sequence[Tree]]:
        return [batch.trees, self._mismatched(batch)]

    def _mismatched(self, batch: Batch) -> list[Tree]:
        """Each prompt with the first completion of the one before it. Raises UserError where it is the only one."""
        if len(batch.trees) < 2:
            raise UserError(
                "kto takes its KL on completions of other prompts, and a step gives this process one prompt: set "
                "rl.kto.batch_size to 2 for each process at least, or give it more examples"
            )
        return [
            Tree(tree.prompt, [batch.trees[index - 1].completions[0]])
            for index, tree in enumerate(batch.trees)
        ]

    def experience(self, batch: Batch) -> Iterator[Batch]:
        mismatched = self._mismatched(batch)
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


def _weights(side: Bool[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """With which a mean over all completions of the step, on every process, is one over this side of them. NaN where
    it has none."""
    count, total = sum_over_ranks(torch.stack([side.sum(), side.new_tensor(len(side), dtype=torch.long)]))
    return side * (total / count)
