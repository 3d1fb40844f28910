"""Proximal policy optimization with a value head on the policy's own transformer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.advantages import center, gae, token_rewards, whiten, whiten_about_mean
from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.algorithms.minibatches import Minibatches
from stages.algorithms.parts import Parts
from stages.algorithms.rollouts import roll_out
from stages.config.schema import OnlineSettings
from stages.distributed import sum_over_ranks
from stages.losses.kl import k1
from stages.losses.policy_gradient import clip_fraction, clipped, clipped_value
from stages.models.hidden import hidden_states, pack_for, state_size
from stages.models.logprobs import TokenLogprobs, map_microbatches, target_logprobs
from stages.trees import Tree


class Settings(OnlineSettings):
    """PPO's own knobs; meanings and sources in conf/rl/ppo.yaml."""

    kl_coef: float = Field(ge=0)
    num_ppo_epochs: int = Field(ge=1)
    num_mini_batches: int = Field(ge=1)
    clip_range: float = Field(gt=0)
    clip_range_value: float = Field(gt=0)
    vf_coef: float = Field(ge=0)
    value_learning_rate: float = Field(gt=0)
    gamma: float = Field(gt=0, le=1)
    gae_lambda: float = Field(ge=0, le=1)
    whiten_rewards: bool
    center_scores: bool

    @model_validator(mode="after")
    def _something_is_left(self) -> Settings:
        if self.center_scores and self.num_generations < 2:
            raise ValueError(
                "center_scores takes off the mean of a prompt's completions: set num_generations to 2 or more"
            )
        return self


class PPO(Algorithm):
    """Schulman et al. 2017, on tokens, with the KL to the reference as a reward (Ziegler et al. 2019).

    An episode is a completion; the unit of the loss is a token.
    """

    Settings = Settings

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings
        self.parts = parts
        # made now: a resumed run restores the policy's weights later
        self.reference = parts.reference if settings.kl_coef else None
        # a policy that trains on each token once, at once, is the one that drew it
        self.on_policy = settings.num_ppo_epochs * settings.num_mini_batches == 1
        self.value_head = nn.Linear(state_size(self.policy), 1)
        nn.init.zeros_(self.value_head.weight)  # the first advantages are then the rewards themselves
        nn.init.zeros_(self.value_head.bias)

    def fresh_heads(self) -> list[tuple[nn.Module, float]]:
        return [(self.value_head, self.settings.value_learning_rate)]

    def evaluate_tokens(self, trees: list[Tree]) -> tuple[TokenLogprobs, Float[Tensor, "batch seq"]]:
        """Log-probabilities and values; the value at t is that of the state before token t."""
        packed = pack_for(self.policy, trees)
        states = hidden_states(self.policy, packed)
        with torch.autocast(states.device.type, enabled=False):  # bf16 is too coarse for a value
            values = self.value_head(states.index_select(0, packed.predictors).float()).squeeze(-1)
        return target_logprobs(self.policy, packed, states, self.settings.temperature), packed.unpack(values)

    def experience(self, batch: Batch) -> Iterator[Batch]:
        settings = self.settings
        rollouts = roll_out(self, self.parts, batch, settings)
        trees, mask = rollouts.batch.trees, rollouts.mask
        parts = Minibatches.draw(trees, settings.num_mini_batches, settings.max_tokens)
        old_logprobs, values = map_microbatches(self._score, trees, parts.microbatches)
        kl = torch.zeros_like(old_logprobs)
        if self.reference:
            scoring = {"temperature": settings.temperature, "microbatches": parts.microbatches}
            kl = k1(old_logprobs, self.reference.logprobs(trees, **scoring).logprobs)
            self.observe("objective/kl_k1", (kl * mask).sum(1))
        scores = rollouts.scores
        if settings.center_scores:
            scores = center(scores.view(-1, settings.num_generations)).flatten()
        rewards = token_rewards(scores, kl, mask, settings.kl_coef)
        if settings.whiten_rewards:
            rewards = whiten_about_mean(rewards, mask, sum_over_ranks)
        advantages = gae(rewards, values, mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda)
        self.observe("rollout/logprob_difference", (old_logprobs - rollouts.sampler_logprobs)[mask].abs())
        fields = {"old_logprobs": old_logprobs, "old_values": values, "returns": advantages + values,
                      "advantages": whiten(advantages, mask, sum_over_ranks)}  # fmt: skip
        yield from parts.epochs(rollouts.batch.with_fields(**fields), settings.num_ppo_epochs)

    def _score(self, trees: list[Tree]) -> tuple[Tensor, Tensor]:
        tokens, values = self.evaluate_tokens(trees)
        return tokens.logprobs, values

    def forward(self, batch: Batch) -> Loss:
        settings = self.settings
        (logprobs, mask, entropy), values = self.evaluate_tokens(list(batch.trees))
        old = logprobs.detach() if self.on_policy else batch["old_logprobs"]
        policy = clipped(
            logprobs, old, batch["advantages"], mask, low=settings.clip_range, high=settings.clip_range
        )
        value = clipped_value(
            values, batch["old_values"], batch["returns"], mask, clip_range=settings.clip_range_value
        )
        clips = clip_fraction(logprobs, old, mask, low=settings.clip_range, high=settings.clip_range)
        metrics = {
            "train/policy_loss": policy.sum(), "train/value_loss": value.sum(), "train/entropy": entropy.sum(),
            "train/clip_fraction": clips.sum(), "train/ratio": ((logprobs - old).exp() * mask).sum(),
        }  # fmt: skip
        return Loss((policy + settings.vf_coef * value).sum(), mask.sum(), metrics)
