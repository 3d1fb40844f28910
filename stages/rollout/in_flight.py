"""The rows that are being sampled, and their cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stages.rollout.cache import KeyValueCache, capacity_for
from stages.rollout.decoder import Decoder
from stages.rollout.recorded import RecordedStep
from stages.rollout.sampling import draw
from stages.rollout.shared_prompts import SHARING_PAYS, SharedPromptCache
from stages.trees import common_prefix

IDLE_SHARE = 0.25  # of rows that have ended, before the rest is moved together where shapes are to stay


@dataclass
class Row:
    """One completion in the making."""

    prompt: int
    input_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    ended: bool = False  # finished, or as long as it may get


class InFlight:
    """The rows in flight, and their cache."""

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[list[int]],
        group: int,
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        """`group` completions of each prompt."""
        self.decoder = decoder
        self.prompts = prompts
        self.group = group
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.shares = decoder.shares and group > 1 and max(map(len, prompts), default=0) >= SHARING_PAYS
        self.rows: list[Row] = []
        self.cache: Any = None  # a KeyValueCache, or where prompts are shared, a SharedPromptCache
        self.widest = 0  # prompt that the cache has room for
        self.peak = 0
        self.recorded: RecordedStep | None = None

    @property
    def running(self) -> int:
        return sum(not row.ended for row in self.rows)

    def room(self, longest: int, max_tokens: int) -> int:
        """How many more prompts, of at most `longest` tokens, fit with their whole groups into `max_tokens` slots."""
        widest = max(self.widest, longest)
        if self.shares:
            prompts = len({row.prompt for row in self.rows if not row.ended})
            prompt, own = capacity_for(widest), capacity_for(self.max_new_tokens)
            return max(max_tokens - prompts * prompt - self.running * own, 0) // (prompt + self.group * own)
        width = capacity_for(widest + self.max_new_tokens)
        return max(max_tokens - self.running * width, 0) // (self.group * width)

    def prefill(self, admitted: list[int]) -> None:
        """Run what the prompts begin with once, the rest of each prompt once, and draw each row's first token."""
        self._close_ranks()
        chosen = [self.prompts[index] for index in admitted]
        prefilled, last = self._run(chosen)
        device = last.device
        expand = torch.arange(len(chosen), device=device).repeat_interleave(self.group)
        cache: Any = prefilled
        if self.shares:
            cache = SharedPromptCache(prefilled, self.group)
        else:
            prefilled.select(expand)
            if self.decoder.static:
                prefilled.reserve(self.max_new_tokens)
        rows = [Row(index) for index in admitted for _ in range(self.group)]
        self._draw(rows, self.decoder.logits(last)[expand])
        self.rows += rows
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.extend(cache)
        self.cache.static = self.decoder.static
        self.widest = max(self.widest, *map(len, chosen))
        self.peak = len(self.rows)

    def _run(self, chosen: list[list[int]]) -> tuple[KeyValueCache, Tensor]:
        """A cache of these prompts, a row each, and the hidden states [rows, hidden] of their last tokens."""
        shared = min(
            common_prefix(chosen), min(map(len, chosen)) - 1
        )  # every prompt keeps a token of its own
        widest = max(map(len, chosen))
        cache = KeyValueCache(self._tensor([0]), shared)
        if shared:
            self.decoder.states(self._tensor([chosen[0][:shared]]), cache)
            cache.advance(self._tensor([shared]))
        cache.reserve(widest - shared)
        cache.select(self._tensor([0] * len(chosen)))
        own = [prompt[shared:] + [0] * (widest - len(prompt)) for prompt in chosen]
        states = self.decoder.states(self._tensor(own), cache)
        lengths = self._tensor([len(prompt) - shared for prompt in chosen])
        cache.advance(lengths)
        return cache, states[torch.arange(len(chosen), device=states.device), lengths - 1]

    def decode(self) -> None:
        """One token for every row; rows that have ended only keep their places."""
        last = self._tensor([[row.input_ids[-1]] for row in self.rows])
        self.cache.reserve(1)
        if self.recorded:
            logits = self.recorded(last)
        else:
            logits = self.decoder.logits(self.decoder.states(last, self.cache)[:, 0])
            if self.cache.static:
                self.recorded = RecordedStep(self.decoder, self.cache, last)
        self.cache.advance(self._tensor([int(not row.ended) for row in self.rows]))
        self._draw(self.rows, logits)

    def collect(self, eos_token_ids: frozenset[int]) -> list[Row]:
        """The rows that have just ended; their places are taken by others."""
        gone = []
        for row in self.rows:
            row.finished = row.input_ids[-1] in eos_token_ids
            if not row.ended and (row.finished or len(row.input_ids) == self.max_new_tokens):
                row.ended = True
                gone.append(row)
        keeps = self.decoder.static and self.running
        if len(self.rows) - self.running > (IDLE_SHARE * len(self.rows) if keeps else 0):
            self._close_ranks()
        return gone

    def _close_ranks(self) -> None:
        """Only running rows from here on."""
        running = [index for index, row in enumerate(self.rows) if not row.ended]
        self.recorded = None
        if not running:
            self.rows, self.cache, self.widest, self.peak = [], None, 0, 0
        elif self.cache and len(running) < len(self.rows):
            self.rows = [self.rows[index] for index in self.cache.shrink(running)]

    def _draw(self, rows: list[Row], logits: Tensor) -> None:
        tokens, logprobs = draw(logits, self.temperature)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if not row.ended:
                row.input_ids.append(token)
                row.logprobs.append(logprob)

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, device=self.decoder.device)
