"""The sampler: the only code that generates. Token in, token out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import nn

from stages.machine import in_any_order
from stages.models.hidden import backbone
from stages.progress import progress
from stages.rollout.decoder import TransformersDecoder, make_decoder, takes_cache
from stages.rollout.generate import generate
from stages.rollout.in_flight import InFlight, Row
from stages.rollout.rollout import Rollout

PATIENCE = 10  # seconds of sampling before a progress bar appears


class Sampler:
    """Continuous batching over one model: each prompt is prefilled once for its group;
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
        self.model = model
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_tokens = max_tokens
        dtype = dtype or next(model.parameters()).dtype
        # set by probe(): its state is a key/value cache, and its windows are ours
        self.cached = getattr(backbone(model), "takes_trees", True) and takes_cache(model)
        self.decoder = make_decoder(model, dtype) if self.cached else TransformersDecoder(model, dtype)

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
        with torch.autocast(self.decoder.device.type, enabled=False), in_any_order():
            self.decoder.refresh()
            training = self.model.training
            self.model.eval()
            if self.cached:
                rollouts = self._sample(prompts, num_generations, max_new_tokens, temperature)
            else:
                assert isinstance(self.decoder, TransformersDecoder)
                rollouts = generate(
                    self.decoder.model, prompts, num_generations, max_new_tokens, temperature, self.eos_token_ids,
                    self.max_tokens,
                )  # fmt: skip
            self.model.train(training)
            self.decoder.release()
            return rollouts

    def _sample(
        self, prompts: Sequence[list[int]], num_generations: int, max_new_tokens: int, temperature: float
    ) -> list[Rollout]:
        batch = InFlight(self.decoder, prompts, num_generations, max_new_tokens, temperature)
        # Longest first: rows of like length share a prefill, and the last rows to finish are the short ones.
        waiting = deque(sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index)))
        done: dict[int, list[Row]] = {index: [] for index in range(len(prompts))}
        total = len(prompts) * num_generations
        bar = progress(total=total, desc="sampling", unit="sample", delay=PATIENCE, leave=False)
        while waiting or batch.rows:
            admitted = self._admit(waiting, prompts, batch)
            if admitted:
                batch.prefill(admitted)
            else:
                batch.decode()
            for row in batch.collect(self.eos_token_ids):
                done[row.prompt].append(row)
                bar.update()
        bar.close()
        return [_rollout(prompts[index], rows) for index, rows in done.items()]

    def _admit(self, waiting: deque[int], prompts: Sequence[list[int]], batch: InFlight) -> list[int]:
        """Prompts whose whole groups fit beside the running rows; none while most of the batch still runs."""
        if not waiting or batch.running * 2 > batch.peak:
            return []
        room = batch.room(len(prompts[waiting[0]]), self.max_tokens)
        count = max(room, 0 if batch.rows else 1)
        return [waiting.popleft() for _ in range(min(count, len(waiting)))]


def _rollout(prompt: list[int], rows: list[Row]) -> Rollout:
    ids, logprobs = [row.input_ids for row in rows], [row.logprobs for row in rows]
    return Rollout.of(prompt, ids, logprobs, [row.finished for row in rows])
