"""The model side of the comparison: one model in memory at a time, each measured on the same prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from stages.data.examples import Example
from stages.evaluation.answer import RowLoss
from stages.evaluation.settings import EvaluateSettings
from stages.losses.kl import k1
from stages.models.load import load_model
from stages.models.logprobs import TokenLogprobs, completion_logprobs
from stages.rollout.rollout import Rollout
from stages.rollout.sampler import Sampler
from stages.trees import Tree

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder or a hub id, and what `from_pretrained` needs beside it; and how many samples of it
    are taken of each prompt."""

    path: str | Path
    revision: str | None = None
    trust_remote_code: bool = False
    num_generations: int = 1


@dataclass(frozen=True)
class Measured:
    """One model on all prompts: its answers, `num_generations` samples of each at temperature 1 with the
    log-probabilities it gives them, and its loss on the demonstrations."""

    answers: list[Rollout]
    num_generations: int
    samples: list[Tree]
    logprobs: TokenLogprobs
    losses: list[RowLoss]

    def by_prompt(self, values: Shaped[Tensor, " batch"]) -> Shaped[Tensor, "prompts samples"]:
        """One value per sample, a row per prompt: samples of one prompt are no independent evidence."""
        return values.view(-1, self.num_generations)


class Measurer:
    """Measures models on one device with the `evaluate` settings; each starts from the same random state."""

    def __init__(
        self, settings: EvaluateSettings, stop_token_ids: Sequence[int], seed: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.stop_token_ids = stop_token_ids
        self.seed = seed
        self.device = device

    def policies(
        self, sources: Mapping[str, Source], prompts: Sequence[Example], demonstrations: Sequence[Example]
    ) -> tuple[dict[str, Measured], dict[str, list[float]]]:
        """Each model measured, and its KL to sft, which is loaded last and then scores the samples of all."""
        order = [name for name in sources if name != "sft"] + ["sft"]
        measured: dict[str, Measured] = {}
        kl = {"sft": [0.0] * len(prompts)}  # to itself
        for name in order:
            log.info("%s: %d prompts, %d demonstrations", name, len(prompts), len(demonstrations))
            source = sources[name]
            model = load_model(
                source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
            )
            model = model.to(self.device).eval().requires_grad_(False)  # type: ignore[arg-type]
            measured[name] = self.policy(model, prompts, demonstrations, source.num_generations)
            if name == "sft":
                kl |= {other: self.kl(model, found) for other, found in measured.items() if other != name}
            del model  # before the next one is loaded
        return {name: measured[name] for name in sources}, kl

    def policy(
        self,
        model: nn.Module,
        prompts: Sequence[Example],
        demonstrations: Sequence[Example],
        num_generations: int,
    ) -> Measured:
        """One model's answers, samples and losses."""
        ids = [example.tree.prompt.input_ids for example in prompts]
        dtype = torch.bfloat16 if self.settings.bf16 else None
        sampler = Sampler(model, self.stop_token_ids, dtype=dtype)
        torch.manual_seed(self.seed)
        answers: list[Rollout] = []
        samples: list[Tree] = []
        if ids:  # of fewer rows than processes some have none
            longest = self.settings.max_new_tokens
            answers = sampler.sample(ids, 1, longest, self.settings.temperature)
            samples = [rollout.tree for rollout in sampler.sample(ids, num_generations, longest, 1.0)]
        logprobs, mask, _ = self.score(model, [example.tree for example in demonstrations])
        totals, tokens = -(logprobs * mask).sum(1), mask.sum(1)
        losses = [RowLoss(*row) for row in zip(totals.tolist(), tokens.tolist(), strict=True)]
        return Measured(answers, num_generations, samples, self.score(model, samples), losses)

    @torch.no_grad()
    def score(self, model: nn.Module, trees: Sequence[Tree]) -> TokenLogprobs:
        """Log-probabilities at temperature 1; no rows of no trees."""
        if not trees:
            nothing = torch.zeros(0, 0, device=self.device)
            return TokenLogprobs(nothing, nothing.bool(), nothing)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.settings.bf16):
            return completion_logprobs(model, trees, max_tokens=self.settings.max_tokens)

    def kl(self, reference: nn.Module, measured: Measured) -> list[float]:
        """k1 against the reference, in nats, summed over the tokens of a sample: of each prompt the mean over its
        samples."""
        theirs = self.score(reference, measured.samples).logprobs
        ours, mask, _ = measured.logprobs
        return measured.by_prompt((k1(ours, theirs) * mask).sum(1)).mean(1).tolist()
