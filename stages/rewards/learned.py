"""The learned reward: a reward model that an earlier stage trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stages.models.reward import RewardModel
from stages.trees import Tree


class LearnedReward:
    """Scores token trees, so that nothing is decoded and tokenized again, `max_tokens` in a pass; in bf16 autocast
    where `bf16`."""

    def __init__(self, model: RewardModel, max_tokens: int, *, bf16: bool = False) -> None:
        self.model, self.max_tokens, self.bf16 = model, max_tokens, bf16

    def __call__(self, trees: Sequence[Tree]) -> list[float]:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.score(trees, self.max_tokens).float().tolist()

    def raw(self, trees: Sequence[Tree]) -> list[float]:
        """Scores without the normalisation: their differences are the log-odds that the model was trained to give
        (Bradley and Terry 1952)."""
        config = self.model.config
        return [score * config.reward_std + config.reward_mean for score in self(trees)]
