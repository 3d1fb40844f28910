"""The reference policy: the policy as it was when training began, frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn

from stages.models.logprobs import TokenLogprobs, completion_logprobs
from stages.packing import Tree


class Reference:
    """With adapters: the policy itself with its adapters off, no copy. Without: a frozen copy, made at once.

    Not an nn.Module: it is neither trained nor saved nor sharded with the policy.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.adapters = isinstance(policy, PeftModel)
        self.model = policy if self.adapters else copy.deepcopy(policy).eval().requires_grad_(False)

    @torch.no_grad()
    def logprobs(self, trees: Sequence[Tree], *, temperature: float, max_tokens: int) -> TokenLogprobs:
        """Log-probabilities under the reference; shapes as in `completion_logprobs`."""
        if isinstance(self.model, PeftModel):
            with self.model.disable_adapter():
                return completion_logprobs(self.model, trees, temperature=temperature, max_tokens=max_tokens)
        return completion_logprobs(self.model, trees, temperature=temperature, max_tokens=max_tokens)
