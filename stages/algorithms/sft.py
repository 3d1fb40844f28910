"""Supervised fine-tuning."""

from __future__ import annotations

from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.losses.language_modeling import negative_log_likelihood
from stages.models.logprobs import completion_logprobs


class SFT(Algorithm):
    """Maximum likelihood of the demonstrations' tokens; the unit is a token, end-of-turn included."""

    def forward(self, batch: Batch) -> Loss:
        logprobs, mask, entropy = completion_logprobs(self.policy, batch.trees)
        losses = negative_log_likelihood(logprobs, mask)
        return Loss(losses.sum(), mask.sum(), {"train/entropy": entropy.sum()})
