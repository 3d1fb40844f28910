"""A reward model without a head: the reward is the log-likelihood that a language model of its own gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from stages.models.load import add_adapter, load_model
from stages.models.logprobs import sequence_logprobs
from stages.models.reward import RewardModel
from stages.trees import Tree


class LikelihoodReward(RewardModel):
    """r(x, y) = sum over tokens of log p(y_t | x, y_<t), trained on pairs like any Bradley-Terry reward.

    Rafailov et al. 2024, "From r to Q*": a language model's log-probabilities are token-level rewards. What the model
    knows of right answers is in these numbers from the start, where a fresh head has yet to learn to read it from
    hidden states; on sums it learns from pairs several times faster than a head.
    """

    kind = "likelihood"

    @classmethod
    def from_policy(cls, folder: str | Path, settings: DictConfig) -> LikelihoodReward:
        model = load_model(folder, trust_remote_code=settings.trust_remote_code)
        model.config.reward_kind, model.config.reward_mean, model.config.reward_std = cls.kind, 0.0, 1.0
        return cls(add_adapter(model, settings))

    @classmethod
    def load(cls, folder: str | Path, *, trust_remote_code: bool = False) -> LikelihoodReward:
        return cls(load_model(folder, trust_remote_code=trust_remote_code))

    def forward(self, trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
        """One log-likelihood per completion, in nats."""
        return sequence_logprobs(self.model, trees)
