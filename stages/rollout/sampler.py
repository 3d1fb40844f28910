"""The sampler: the only code that generates. Token in, token out."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stages.models.hidden import attention_masks, backbone
from stages.models.logprobs import lm_head
from stages.packing import Node, Tree, common_prefix
from stages.rollout.cache import KeyValueCache
from stages.rollout.sampling import draw


@dataclass(frozen=True)
class Rollout:
    """Completions of one prompt, with the sampler's own log-probabilities."""

    tree: Tree
    logprobs: list[list[float]]  # one list per completion, one number per token
    finished: list[bool]  # False where max_new_tokens came before an end token


@dataclass
class _Row:
    prompt: int
    input_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


class Sampler:
    """Continuous batching over one model: each prompt is prefilled once and its cache expanded to its group;
    finished rows leave the batch, and waiting prompts take their place under a token budget.

    `dtype` other than the model's makes a copy of the weights in it, refreshed at each call of `sample`.
    """

    def __init__(
        self,
        model: nn.Module,
        eos_token_ids: Sequence[int],
        max_tokens: int = 16384,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.source = model
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_tokens = max_tokens
        same = dtype in (None, next(model.parameters()).dtype)
        self.model = model if same else copy.deepcopy(model).to(dtype).requires_grad_(False)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[list[int]],
        num_generations: int,
        max_new_tokens: int,
        temperature: float = 1.0,
    ) -> list[Rollout]:
        """Sample `num_generations` completions of each prompt, from torch's global RNG; temperature 0 is greedy."""
        # Weights are in the sampler's own precision: autocast would only convert them again at every token.
        with torch.autocast(next(self.model.parameters()).device.type, enabled=False):
            return self._sample(prompts, num_generations, max_new_tokens, temperature)

    def _sample(
        self, prompts: Sequence[list[int]], num_generations: int, max_new_tokens: int, temperature: float
    ) -> list[Rollout]:
        self._refresh()
        training = self.model.training
        self.model.eval()
        batch = _Batch(self.model, temperature)
        # Longest first: rows of like length share a prefill, and the last rows to finish are the short ones.
        waiting = deque(sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index)))
        done: dict[int, list[_Row]] = {index: [] for index in range(len(prompts))}
        while waiting or batch.rows:
            admitted = self._admit(waiting, prompts, num_generations, max_new_tokens, batch)
            if admitted:
                batch.prefill(admitted, prompts, num_generations, max_new_tokens)
            else:
                batch.decode()
            for row in batch.collect(self.eos_token_ids, max_new_tokens):
                done[row.prompt].append(row)
        self.model.train(training)
        return [_rollout(prompts[index], rows) for index, rows in done.items()]

    def _refresh(self) -> None:
        if self.model is not self.source:
            for mine, theirs in zip(self.model.parameters(), self.source.parameters(), strict=True):
                mine.copy_(theirs)

    def _admit(
        self,
        waiting: deque[int],
        prompts: Sequence[list[int]],
        group: int,
        max_new_tokens: int,
        batch: _Batch,
    ) -> list[int]:
        """Prompts whose whole groups fit beside the running rows; none while most of the batch still runs."""
        if not waiting or len(batch.rows) * 2 > batch.peak:
            return []
        widest = max(batch.capacity, len(prompts[waiting[0]]) + max_new_tokens)
        room = max(self.max_tokens // widest - len(batch.rows), 0) // group
        count = max(room, 0 if batch.rows else 1)
        return [waiting.popleft() for _ in range(min(count, len(waiting)))]


class _Batch:
    """The rows in flight, and their cache."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        self.model = model
        self.temperature = temperature
        self.rows: list[_Row] = []
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
        rows = [_Row(index) for index in admitted for _ in range(group)]
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

    def collect(self, eos_token_ids: frozenset[int], max_new_tokens: int) -> list[_Row]:
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

    def _draw(self, rows: list[_Row], logits: Tensor) -> None:
        tokens, logprobs = draw(logits, self.temperature)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.input_ids.append(token)
            row.logprobs.append(logprob)

    def _forward(self, input_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Hidden states [rows, new, hidden] of tokens that follow what `cache` holds; it stores them."""
        body = backbone(self.model)
        new = input_ids.shape[1]
        positions = cache.lengths[:, None] + torch.arange(new, device=self.device)
        return body(
            input_ids=input_ids, position_ids=positions, past_key_values=cache, use_cache=True,
            attention_mask=attention_masks(body, lambda window: cache.visible(new, window)),
        ).last_hidden_state  # fmt: skip

    def _tensor(self, values: list) -> Tensor:
        return torch.tensor(values, device=self.device)


def _padded(ids: list[int], width: int) -> list[int]:
    return ids + [0] * (width - len(ids))


def _rollout(prompt: list[int], rows: list[_Row]) -> Rollout:
    nodes = [Node(row.input_ids, [True] * len(row.input_ids)) for row in rows]
    tree = Tree(Node(prompt, [False] * len(prompt)), nodes)
    return Rollout(tree, [row.logprobs for row in rows], [row.finished for row in rows])
