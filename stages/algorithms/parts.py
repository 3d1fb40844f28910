"""What an RL algorithm may be made of; reference and sampler are built when first asked for: DPO needs neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from stages.models.load import disable_dropout
from stages.models.reference import Reference
from stages.rewards.rewards import Reward, Rewards
from stages.rollout.sampler import Sampler


@dataclass(frozen=True)
class Parts:
    """The trained policy and what surrounds it."""

    policy: nn.Module
    eos_token_ids: Sequence[int]
    dtype: torch.dtype  # that products are computed in, of training and sampling
    rewards: Rewards
    verifier: Reward | None = None  # of data.verifier: says which completions are right, a reward or not

    def __post_init__(self) -> None:
        disable_dropout(self.policy)  # of adapters too, which sft and the reward model may train with

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.policy, self.dtype)

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(self.policy, self.eos_token_ids, dtype=self.dtype)
