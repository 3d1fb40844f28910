"""From a batch of prompts to scored completions: what every online algorithm does first."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stages.algorithms.base import Algorithm
from stages.algorithms.batch import Batch
from stages.algorithms.parts import Parts
from stages.config.schema import OnlineSettings
from stages.distributed import sum_over_ranks
from stages.rewards.ranking import agreement, right_wrong_pairs
from stages.rewards.rewards import full_marks


class Rollouts(NamedTuple):
    """Rows are completions: `num_generations` in a row belong to one prompt."""

    batch: Batch
    sampler_logprobs: Float[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]
    scores: Float[Tensor, " batch"]


def roll_out(algorithm: Algorithm, parts: Parts, batch: Batch, settings: OnlineSettings) -> Rollouts:
    """Sample `num_generations` completions of each prompt and score them.

    A completion that is cut off before an end token scores `missing_eos_penalty` less (Huang et al. 2024, detail 4).
    """
    began = time.perf_counter()
    prompts = [example.tree.prompt.input_ids for example in batch.examples]
    rollouts = parts.sampler.sample(
        prompts, settings.num_generations, settings.max_new_tokens, settings.temperature
    )
    algorithm.observe("perf/rollout_seconds", torch.tensor([time.perf_counter() - began]))
    trees = [rollout.tree for rollout in rollouts]
    device = next(algorithm.parameters()).device
    logprobs = [torch.tensor(row, device=device) for rollout in rollouts for row in rollout.logprobs]
    finished = torch.tensor([flag for rollout in rollouts for flag in rollout.finished], device=device)
    lengths = torch.tensor([len(row) for row in logprobs], device=device)
    rewards = parts.rewards(batch.examples, trees)
    scores = rewards.total.to(device) - settings.missing_eos_penalty * ~finished
    for name, part in rewards.parts.items():
        algorithm.observe(f"objective/rewards/{name}", part)
    algorithm.observe("objective/scores", scores)
    if parts.verifier is not None:
        verified = parts.rewards.scores_of(parts.verifier, batch.examples, trees, rewards)
        observe_gold(algorithm, scores, full_marks(verified.to(device)), settings.num_generations)
    algorithm.observe("rollout/length", lengths)
    algorithm.observe("rollout/no_eos_share", ~finished)
    padded = pad_sequence(logprobs, batch_first=True)
    mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]
    return Rollouts(Batch(batch.examples, trees), padded, mask, scores)


def observe_gold(
    algorithm: Algorithm, scores: Float[Tensor, " batch"], right: Bool[Tensor, " batch"], num_generations: int
) -> None:
    """What the verifier says of the completions that the policy is about to learn from, and of their scores.

    The scores are those that the algorithm climbs, `missing_eos_penalty` included: `objective/scores` is their mean
    over right and wrong completions. `objective/reward_accuracy` is over the pairs of every rank.
    """
    algorithm.observe("objective/gold_accuracy", right)
    algorithm.observe("objective/scores_right", scores[right])
    algorithm.observe("objective/scores_wrong", scores[~right])
    pairs = right_wrong_pairs(scores.view(-1, num_generations), right.view(-1, num_generations))
    algorithm.observe("objective/reward_accuracy", agreement(pairs.margins))


def mean_length(mask: Bool[Tensor, "batch seq"]) -> Float[Tensor, " batch"]:
    """Tokens per completion over the batch of every process, once per row: what makes of a mean over tokens one over
    completions."""
    tokens, rows = sum_over_ranks(torch.stack([mask.sum(), mask.new_tensor(len(mask), dtype=torch.long)]))
    return (tokens / rows).expand(len(mask))
