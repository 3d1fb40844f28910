"""Direct preference optimization and its family of losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from hydra.utils import instantiate
from pydantic import Field, field_validator

from stages.algorithms.base import Loss, WithReference
from stages.algorithms.batch import Batch
from stages.algorithms.pairs import preference_pairs
from stages.algorithms.parts import Parts
from stages.config.schema import OfflineSettings
from stages.config.target import check_target
from stages.data.examples import has_pair
from stages.models.logprobs import sequence_logprobs


class Settings(OfflineSettings):
    """DPO's own knobs; meanings and sources in conf/rl/dpo.yaml."""

    beta: float = Field(gt=0)
    loss: dict[str, Any]

    @field_validator("loss")
    @classmethod
    def _loss_can_be_called(cls, loss: dict[str, Any]) -> dict[str, Any]:
        check_target(loss, positional=2, keywords=["beta"])  # as `forward` calls it
        return loss


class DPO(WithReference):
    """Rafailov et al. 2023. `settings.loss` names a function like stages.losses.preference's; the unit is a pair."""

    Settings = Settings
    offline = True
    usable = staticmethod(has_pair)

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(parts.policy)
        self.settings = settings
        self.loss = instantiate(settings.loss, _partial_=True)

    def experience(self, batch: Batch) -> Iterator[Batch]:
        yield batch.with_fields(ref_logprobs=self.reference.logprobs(batch.trees))

    def forward(self, batch: Batch) -> Loss:
        logratios = sequence_logprobs(self.policy, batch.trees) - batch["ref_logprobs"]
        rows = (rows.to(logratios.device) for rows in preference_pairs(batch))
        chosen, rejected = (logratios.index_select(0, row) for row in rows)
        losses = self.loss(chosen, rejected, beta=self.settings.beta)
        rewards = self.settings.beta * torch.stack([chosen, rejected]).detach()
        metrics = {
            "objective/rewards/chosen": rewards[0].sum(), "objective/rewards/rejected": rewards[1].sum(),
            "objective/rewards/margin": (rewards[0] - rewards[1]).sum(),
            "train/accuracy": (rewards[0] > rewards[1]).sum(),
        }  # fmt: skip
        return Loss(losses.sum(), losses.new_tensor(len(losses)), metrics)
