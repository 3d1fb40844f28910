"""The Bradley-Terry reward model."""

from __future__ import annotations

from stages.algorithms.base import Algorithm, Loss
from stages.algorithms.batch import Batch
from stages.algorithms.pairs import preference_pairs
from stages.data.examples import has_pair
from stages.losses.preference import bradley_terry


class BradleyTerry(Algorithm):
    """Ouyang et al. 2022, equation 1; the unit is a pair. `policy` is the reward model."""

    usable = staticmethod(has_pair)

    def forward(self, batch: Batch) -> Loss:
        rewards = self.policy(batch.trees)
        chosen, rejected = (
            rewards.index_select(0, rows.to(rewards.device)) for rows in preference_pairs(batch)
        )
        losses = bradley_terry(chosen, rejected)
        metrics = {
            "train/accuracy": (chosen > rejected).sum(),
            "train/margin": (chosen - rejected).detach().sum(),
        }
        return Loss(losses.sum(), losses.new_tensor(len(losses)), metrics)
