"""Sampling through transformers' own `generate`, for models whose state is no key/value cache (Mamba, RWKV)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from stages.models.compiled import uncompiled
from stages.models.hidden import backbone
from stages.rollout.rollout import Rollout


class _Recorder(LogitsProcessor):
    """Divides the logits by the temperature, and keeps the log-probability of each token that was drawn."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.last: Tensor | None = None  # of the step whose token is not known yet
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        self.record(input_ids)
        scores = scores.float() / (self.temperature or 1.0)
        self.last = scores.log_softmax(-1)
        return scores

    def record(self, input_ids: Int[Tensor, "rows seq"]) -> None:
        if self.last is not None:
            self.logprobs.append(self.last.gather(-1, input_ids[:, -1:]))


def generate(
    model: Any, prompts: Sequence[list[int]], num_generations: int, max_new_tokens: int, temperature: float,
    eos_token_ids: frozenset[int], max_tokens: int,
) -> list[Rollout]:  # fmt: skip
    """As `Sampler.sample`. Prompts of one length share a call, so nothing is padded: not every model's state skips
    padding."""
    config = GenerationConfig(
        do_sample=temperature > 0, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=max_new_tokens,
        eos_token_id=sorted(eos_token_ids), pad_token_id=min(eos_token_ids),
        use_cache=getattr(backbone(model), "caches", True),  # set by probe()
    )  # fmt: skip
    found: dict[int, Rollout] = {}
    for members in _calls(prompts, num_generations, max_new_tokens, max_tokens):
        ids = torch.tensor([prompts[index] for index in members for _ in range(num_generations)])
        recorder = _Recorder(temperature)
        with _without_defaults(model), uncompiled():
            ids = model.generate(
                ids.to(model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([recorder]),
            )
        recorder.record(ids)
        logprobs = torch.cat(recorder.logprobs, 1)
        for number, index in enumerate(members):
            rows = slice(number * num_generations, (number + 1) * num_generations)
            found[index] = _rollout(prompts[index], ids[rows], logprobs[rows], eos_token_ids)
    return [found[index] for index in range(len(prompts))]


def _calls(
    prompts: Sequence[list[int]], group: int, max_new_tokens: int, max_tokens: int
) -> Iterator[list[int]]:
    """Indices of prompts of one length, whole groups of which fit into `max_tokens`, or of a single prompt."""
    lengths: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        lengths[len(prompt)].append(index)
    for length, members in lengths.items():
        size = max(1, max_tokens // ((length + max_new_tokens) * group))
        yield from (members[start : start + size] for start in range(0, len(members), size))


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """generate() fills what a config leaves open from the model's own: a repetition penalty would change the
    distribution behind the back of the log-probabilities."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _rollout(
    prompt: list[int],
    ids: Int[Tensor, "rows seq"],
    logprobs: Float[Tensor, "rows new"],
    stops: frozenset[int],
) -> Rollout:
    """Each row up to its first end token."""
    completions, kept, finished = [], [], []
    for row, values in zip(ids[:, len(prompt) :].tolist(), logprobs.tolist(), strict=True):
        end = next((index + 1 for index, token in enumerate(row) if token in stops), len(row))
        completions.append(row[:end])
        kept.append(values[:end])
        finished.append(row[end - 1] in stops)
    return Rollout.of(prompt, completions, kept, finished)
