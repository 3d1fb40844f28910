"""Group relative policy optimization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra.utils import instantiate
from pydantic import Field, field_validator

from stages.advantages import group_relative
from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.algorithms.minibatches import Minibatches
from stages.algorithms.parts import Parts
from stages.algorithms.rollouts import mean_length, roll_out
from stages.config.schema import OnlineSettings
from stages.config.target import check_target
from stages.losses.kl import k1
from stages.losses.policy_gradient import clip_fraction, clipped
from stages.models.logprobs import completion_logprobs


class Settings(OnlineSettings):
    """GRPO's own knobs; meanings and sources in conf/rl/grpo.yaml."""

    num_generations: int = Field(ge=2)  # an advantage is over the others of its group
    num_iterations: int = Field(ge=1)
    num_mini_batches: int = Field(ge=1)
    beta: float = Field(ge=0)
    kl_estimator: dict[str, Any]
    clip_range: float = Field(gt=0)
    clip_range_high: float = Field(gt=0)
    scale_rewards: bool

    @field_validator("kl_estimator")
    @classmethod
    def _estimator_can_be_called(cls, estimator: dict[str, Any]) -> dict[str, Any]:
        check_target(estimator, positional=3, keywords=[])  # as `forward` calls it
        return estimator


class GRPO(Algorithm):
    """Shao et al. 2024 (DeepSeekMath): advantages from the group, no value model, KL in the loss.

    The unit of the loss is a token of the whole step, as in DAPO (Yu et al. 2025), so long completions are not diluted.
    """

    Settings = Settings

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings
        self.parts = parts
        self.kl = instantiate(settings.kl_estimator, _partial_=True)
        # made now: a resumed run restores the policy's weights later
        self.reference = parts.reference if settings.beta else None
        # a policy that trains on each token once, at once, is the one that drew it
        self.on_policy = settings.num_iterations * settings.num_mini_batches == 1

    def experience(self, batch: Batch) -> Iterator[Batch]:
        settings = self.settings
        rollouts = roll_out(self, self.parts, batch, settings)
        trees, mask = rollouts.batch.trees, rollouts.mask
        groups = rollouts.scores.view(-1, settings.num_generations)
        advantages = group_relative(groups, scale=settings.scale_rewards).flatten()
        fields = {"sampler_logprobs": rollouts.sampler_logprobs, "advantages": advantages[:, None] * mask}
        parts = Minibatches.draw(trees, settings.num_mini_batches, settings.max_tokens)
        scoring = {"temperature": settings.temperature, "microbatches": parts.microbatches}
        if not self.on_policy:
            fields["old_logprobs"] = completion_logprobs(self.policy, trees, **scoring).logprobs
        if self.reference:
            fields["ref_logprobs"] = self.reference.logprobs(trees, **scoring).logprobs
            fields["mean_length"] = mean_length(mask)
        self.observe("objective/equal_group_share", groups.max(1).values == groups.min(1).values)
        yield from parts.epochs(rollouts.batch.with_fields(**fields), settings.num_iterations)

    def forward(self, batch: Batch) -> Loss:
        settings = self.settings
        logprobs, mask, entropy = completion_logprobs(
            self.policy, batch.trees, temperature=settings.temperature
        )
        clip = {"low": settings.clip_range, "high": settings.clip_range_high}
        old = logprobs.detach() if self.on_policy else batch["old_logprobs"]
        losses = clipped(logprobs, old, batch["advantages"], mask, **clip)
        metrics = {
            "train/policy_loss": losses.sum(), "train/entropy": entropy.sum(),
            "train/clip_fraction": clip_fraction(logprobs, old, mask, **clip).sum(),
            "train/ratio": ((logprobs - old).exp() * mask).sum(),
            "rollout/logprob_difference": ((old - batch["sampler_logprobs"]).abs() * mask).sum(),
        }  # fmt: skip
        if settings.beta:
            kl = self.kl(logprobs, batch["ref_logprobs"], old) * mask
            losses = losses + settings.beta * kl
            metrics["train/kl"] = kl.sum()
            sums = (k1(old, batch["ref_logprobs"]) * mask).sum(1)
            metrics["objective/kl_k1"] = sums @ batch["mean_length"]
        return Loss(losses.sum(), mask.sum(), metrics)
