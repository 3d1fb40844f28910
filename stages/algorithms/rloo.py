"""REINFORCE with a leave-one-out baseline."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field

from stages.advantages import leave_one_out
from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.algorithms.minibatches import Minibatches
from stages.algorithms.parts import Parts
from stages.algorithms.rollouts import roll_out
from stages.config.schema import OnlineSettings
from stages.losses.kl import k1
from stages.losses.policy_gradient import clip_fraction, clipped
from stages.models.logprobs import completion_logprobs


class Settings(OnlineSettings):
    """RLOO's own knobs; meanings and sources in conf/rl/rloo.yaml."""

    num_generations: int = Field(ge=2)
    num_iterations: int = Field(ge=1)
    num_mini_batches: int = Field(ge=1)
    kl_coef: float = Field(ge=0)
    clip_range: float = Field(gt=0)


class RLOO(Algorithm):
    """Ahmadian et al. 2024: a completion is one action, its baseline the mean of the others in its group, and the KL
    to the reference is part of its reward. The unit of the loss is a completion."""

    Settings = Settings

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings
        self.parts = parts
        # made now: a resumed run restores the policy's weights later
        self.reference = parts.reference if settings.kl_coef else None
        # a policy that trains on each token once, at once, is the one that drew it
        self.on_policy = settings.num_iterations * settings.num_mini_batches == 1

    def experience(self, batch: Batch) -> Iterator[Batch]:
        settings = self.settings
        rollouts = roll_out(self, self.parts, batch, settings)
        trees, mask, returns = rollouts.batch.trees, rollouts.mask, rollouts.scores
        parts = Minibatches.draw(trees, settings.num_mini_batches, settings.max_tokens)
        scoring = {"temperature": settings.temperature, "microbatches": parts.microbatches}
        fields = {"sampler_logprobs": rollouts.sampler_logprobs}
        if self.reference or not self.on_policy:
            fields["old_logprobs"] = completion_logprobs(self.policy, trees, **scoring).logprobs
        if self.reference:
            ref_logprobs = self.reference.logprobs(trees, **scoring).logprobs
            kl = (k1(fields["old_logprobs"], ref_logprobs) * mask).sum(1)
            returns = returns - settings.kl_coef * kl
            self.observe("objective/kl_k1", kl)
        fields["advantages"] = leave_one_out(returns.view(-1, settings.num_generations)).flatten()
        yield from parts.epochs(rollouts.batch.with_fields(**fields), settings.num_iterations)

    def forward(self, batch: Batch) -> Loss:
        settings = self.settings
        tokens = completion_logprobs(self.policy, batch.trees, temperature=settings.temperature)
        old_tokens = tokens.logprobs.detach() if self.on_policy else batch["old_logprobs"]
        logprobs, old = ((each * tokens.mask).sum(1, keepdim=True) for each in (tokens.logprobs, old_tokens))
        advantages = batch["advantages"][:, None]  # of whole completions: one column
        whole = torch.ones_like(logprobs, dtype=torch.bool)
        clip = {"low": settings.clip_range, "high": settings.clip_range}
        losses = clipped(logprobs, old, advantages, whole, **clip)
        lengths = tokens.mask.sum(1).clamp(min=1)
        difference = ((old_tokens - batch["sampler_logprobs"]).abs() * tokens.mask).sum(1) / lengths
        metrics = {
            "train/entropy": (tokens.entropy.sum(1) / lengths).sum(), "train/ratio": (logprobs - old).exp().sum(),
            "rollout/logprob_difference": difference.sum(),
            "train/clip_fraction": clip_fraction(logprobs, old, whole, **clip).sum(),
        }  # fmt: skip
        return Loss(losses.sum(), losses.new_tensor(len(losses)), metrics)
