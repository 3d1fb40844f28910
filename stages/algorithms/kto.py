"""Kahneman-Tversky optimization: completions that are good or bad, each by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.algorithms.pairs import desirable
from stages.algorithms.parts import Parts
from stages.config.schema import OfflineSettings
from stages.distributed import sum_over_ranks
from stages.losses.preference import kto
from stages.models.logprobs import completion_logprobs
from stages.packing import Tree


class Settings(OfflineSettings):
    """KTO's own knobs; meanings and sources in conf/rl/kto.yaml."""

    batch_size: int = Field(ge=2)  # a prompt meets another one's completion
    beta: float = Field(gt=0)
    desirable_weight: float = Field(ge=0)
    undesirable_weight: float = Field(ge=0)


class KTO(Algorithm):
    """Ethayarajh et al. 2024; the unit is a completion.

    The reference point z0 is the KL to the reference, estimated as in the paper on completions of other prompts, once
    per step and over every process.
    """

    Settings = Settings
    offline = True

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings
        self.reference = parts.reference  # made now: a resumed run restores the policy's weights later

    def experience(self, batch: Batch) -> Iterator[Batch]:
        budget = self.settings.max_tokens
        others = [batch.trees[index - 1].completions[0] for index in range(len(batch))]
        pairs = list(zip(batch.trees, others, strict=True))
        # One more branch of the same prompt: the reference sees each prompt once.
        widened = [Tree(tree.prompt, [*tree.completions, other]) for tree, other in pairs]
        reference = self.reference.logprobs(widened, temperature=1.0, max_tokens=budget).logprobs
        last = (
            torch.tensor([len(tree.completions) for tree in widened], device=reference.device).cumsum(0) - 1
        )
        own = torch.ones(len(reference), dtype=torch.bool, device=reference.device).index_fill(0, last, False)
        crossed = [Tree(tree.prompt, [other]) for tree, other in pairs]
        policy = completion_logprobs(self.policy, crossed, max_tokens=budget).logprobs
        kl = self._reference_point(policy.sum(1) - reference[last].sum(1))
        self.observe("objective/kl_mismatched", kl)
        width = max(len(node.input_ids) for tree in batch.trees for node in tree.completions)
        rows = reference[own][:, :width]
        yield batch.with_fields(ref_logprobs=rows, kl=kl.expand(len(rows)))

    def _reference_point(self, logratios: Tensor) -> Tensor:
        """max(0, mean) over the completions of every process."""
        total, count = sum_over_ranks(torch.stack([logratios.sum(), logratios.new_tensor(len(logratios))]))
        return (total / count).clamp(min=0)

    def forward(self, batch: Batch) -> Loss:
        settings = self.settings
        logprobs, mask, _ = completion_logprobs(self.policy, batch.trees)
        logratios = ((logprobs - batch["ref_logprobs"]) * mask).sum(1)
        good = desirable(batch).to(logratios.device)
        losses = kto(
            logratios, good, batch["kl"], beta=settings.beta,
            desirable_weight=settings.desirable_weight, undesirable_weight=settings.undesirable_weight,
        )  # fmt: skip
        right = (logratios > batch["kl"]) == good
        self.observe("objective/rewards/chosen", settings.beta * logratios[good])
        self.observe("objective/rewards/rejected", settings.beta * logratios[~good])
        return Loss(losses.sum(), losses.new_tensor(len(losses)), {"train/accuracy": right.sum()})
