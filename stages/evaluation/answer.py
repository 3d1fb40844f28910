"""What was measured on one prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Sample(NamedTuple):
    """What the verifier and the reward model say of one sample."""

    gold: float  # 1 right, 0 wrong
    reward: float  # as the reward model gives it before its normalisation: differences are log-odds


@dataclass(frozen=True)
class Answer:
    """What one model did with one prompt.

    Of its answer at evaluate.temperature: completion, length (tokens), no_eos (1 where it did not end), gold
    (1 right, 0 wrong; None without a verifier), reward_model_score (None without a reward model). Of its samples
    at temperature 1: kl (k1 against the sft model, nats, summed over tokens, mean over samples), entropy (nats) and
    tokens, both summed over all of them; and, where there are verifier and reward model, what these say of each.
    """

    completion: str
    length: int
    no_eos: float
    gold: float | None
    reward_model_score: float | None
    kl: float
    entropy: float
    tokens: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class RowLoss:
    """Negative log-likelihood of one held-out demonstration: its sum in nats, and its tokens."""

    total: float
    tokens: int
