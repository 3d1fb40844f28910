"""The learned reward: a reward model that an earlier stage trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stages.models.reward_kinds import load_reward_model
from stages.packing import Tree


class LearnedReward:
    """Scores token trees, so that nothing is decoded and tokenized again, `max_tokens` in a pass; in bf16 autocast
    where `bf16`."""

    def __init__(
        self,
        folder: str | Path,
        max_tokens: int,
        *,
        bf16: bool = False,
        device: torch.device | str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.model = load_reward_model(folder, trust_remote_code=trust_remote_code).to(device)
        self.max_tokens, self.bf16 = max_tokens, bf16

    def __call__(self, trees: Sequence[Tree]) -> list[float]:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.model.score(trees, self.max_tokens).float().tolist()
