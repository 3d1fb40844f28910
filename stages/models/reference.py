"""The reference policy, for completions that are sampled while training: the policy as it was at the start, frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PeftModel
from torch import nn

from stages.models.compiled import compile_layers, compiled
from stages.models.load import narrow_products
from stages.models.logprobs import Microbatches, TokenLogprobs, completion_logprobs
from stages.trees import Tree


def adapters_off(policy: nn.Module) -> AbstractContextManager[None]:
    """A block in which the policy is the model under its adapters; where it has none, it is as it is."""
    return policy.disable_adapter() if isinstance(policy, PeftModel) else nullcontext()


class Reference:
    """With adapters: the policy itself with its adapters off, no copy. Without: a frozen copy, made at once, its
    products' weights in `dtype`, the precision that it is going to be run in.

    Not an nn.Module: it is neither trained nor saved nor sharded with the policy.
    """

    def __init__(self, policy: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        shared = isinstance(policy, PeftModel)
        self.model = policy if shared else _frozen_copy(policy, dtype)

    @torch.no_grad()
    def logprobs(
        self, trees: Sequence[Tree], *, temperature: float, microbatches: Microbatches
    ) -> TokenLogprobs:
        """Log-probabilities under the reference; as of `completion_logprobs`."""
        with adapters_off(self.model):
            return completion_logprobs(self.model, trees, temperature=temperature, microbatches=microbatches)


def _frozen_copy(policy: nn.Module, dtype: torch.dtype) -> nn.Module:
    found = copy.deepcopy(policy).eval().requires_grad_(False)
    narrow_products(found, dtype)
    if compiled(policy):
        compile_layers(found)
    return found
