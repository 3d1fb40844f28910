"""The rows that are being sampled, and their cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stages.models.hidden import attention_masks, backbone
from stages.models.logprobs import lm_head
from stages.packing import common_prefix
from stages.rollout.attention import grouped_queries
from stages.rollout.cache import KeyValueCache
from stages.rollout.sampling import draw


@dataclass
class Row:
    """One completion in the making."""

    prompt: int
    input_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


class InFlight:
    """The rows in flight, and their cache."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        self.model = model
        self.temperature = temperature
        self.rows: list[Row] = []
        self.cache: KeyValueCache | None = None
        self.peak = 0
        self.device = next(model.parameters()).device

    @property
    def capacity(self) -> int:
        return self.cache.capacity if self.cache else 0

    def prefill(
        self, admitted: list[int], prompts: Sequence[list[int]], group: int, max_new_tokens: int
    ) -> None:
        """Run what the prompts begin with once, the rest of each prompt once, and draw each row's first token."""
        chosen = [prompts[index] for index in admitted]
        shared = min(
            common_prefix(chosen), min(map(len, chosen)) - 1
        )  # every prompt keeps a token of its own
        cache = KeyValueCache(self._tensor([0]), max(map(len, chosen)) + max_new_tokens)
        if shared:
            self._forward(self._tensor([chosen[0][:shared]]), cache)
            cache.lengths += shared
        cache.select(self._tensor([0] * len(chosen)))
        width = max(map(len, chosen)) - shared
        states = self._forward(self._tensor([_padded(prompt[shared:], width) for prompt in chosen]), cache)
        own = self._tensor([len(prompt) - shared for prompt in chosen])
        last = states[torch.arange(len(chosen), device=self.device), own - 1]
        cache.lengths = cache.lengths + own
        expand = torch.arange(len(chosen), device=self.device).repeat_interleave(group)
        cache.select(expand)
        rows = [Row(index) for index in admitted for _ in range(group)]
        self._draw(rows, lm_head(self.model, last)[expand])
        self.rows += rows
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.extend(cache)
        self.peak = len(self.rows)

    def decode(self) -> None:
        """One token for every row."""
        assert self.cache is not None
        states = self._forward(self._tensor([[row.input_ids[-1]] for row in self.rows]), self.cache)
        self.cache.lengths = self.cache.lengths + 1
        self._draw(self.rows, lm_head(self.model, states[:, 0]))

    def collect(self, eos_token_ids: frozenset[int], max_new_tokens: int) -> list[Row]:
        """Take the rows that have ended out of the batch."""
        for row in self.rows:
            row.finished = row.input_ids[-1] in eos_token_ids
        running = [
            index
            for index, row in enumerate(self.rows)
            if not row.finished and len(row.input_ids) < max_new_tokens
        ]
        ended = sorted(set(range(len(self.rows))) - set(running))
        gone = [self.rows[index] for index in ended]
        if gone:
            self.rows = [self.rows[index] for index in running]
            if self.cache and running:
                self.cache.select(torch.tensor(running, device=self.device))
            if not running:
                self.cache, self.peak = None, 0
        return gone

    def _draw(self, rows: list[Row], logits: Tensor) -> None:
        tokens, logprobs = draw(logits, self.temperature)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.input_ids.append(token)
            row.logprobs.append(logprob)

    def _forward(self, input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Hidden states [rows, new, hidden] of tokens that follow what `cache` holds; it stores them."""
        body = backbone(self.model)
        new = input_ids.shape[1]
        positions = cache.lengths[:, None] + torch.arange(new, device=self.device)
        mask = attention_masks(body, lambda window: cache.visible(new, window))
        with grouped_queries(body):
            return body(
                input_ids=input_ids, position_ids=positions, past_key_values=cache, use_cache=True,
                attention_mask=mask,
            ).last_hidden_state  # fmt: skip

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, device=self.device)


def _padded(ids: list[int], width: int) -> list[int]:
    return ids + [0] * (width - len(ids))
