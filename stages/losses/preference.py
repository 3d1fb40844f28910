"""Losses on preference pairs: one value per pair.

Log-ratios are log pi(y|x) - log pi_ref(y|x), summed over a completion's tokens.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

FlippedShare = Annotated[
    float, Field(ge=0, lt=0.5)
]  # half of all labels flipped say nothing, more say the opposite
Pairs = Float[Tensor, " pairs"]


def bradley_terry(chosen_rewards: Pairs, rejected_rewards: Pairs) -> Pairs:
    """-log sigmoid(r_chosen - r_rejected). Ouyang et al. 2022 (InstructGPT), equation 1."""
    return -F.logsigmoid(chosen_rewards - rejected_rewards)


def sigmoid(
    chosen_logratios: Pairs, rejected_logratios: Pairs, *, beta: float, label_smoothing: FlippedShare = 0.0
) -> Pairs:
    """DPO: -log sigmoid(beta (chosen - rejected)). Rafailov et al. 2023, equation 7.

    `label_smoothing` is the share of labels assumed to be flipped: conservative DPO, Mitchell 2023.
    """
    logits = beta * (chosen_logratios - rejected_logratios)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def hinge(chosen_logratios: Pairs, rejected_logratios: Pairs, *, beta: float) -> Pairs:
    """SLiC-style hinge: max(0, 1 - beta (chosen - rejected)). Liu et al. 2023 (RSO), table 1."""
    return F.relu(1 - beta * (chosen_logratios - rejected_logratios))


def ipo(chosen_logratios: Pairs, rejected_logratios: Pairs, *, beta: float) -> Pairs:
    """IPO: (chosen - rejected - 1 / (2 beta))^2 on log-ratios summed over tokens. Azar et al. 2023, equation 17.

    TRL averages the log-ratios over tokens instead; sum is the paper's form.
    """
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)) ** 2


def kto(
    logratios: Float[Tensor, " batch"],
    desirable: Bool[Tensor, " batch"],
    kl: Float[Tensor, " batch"],
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Float[Tensor, " batch"]:
    """w (1 - sigmoid(beta (h - z0))) where desirable, w (1 - sigmoid(beta (z0 - h))) where not; z0 = `kl`.

    Ethayarajh et al. 2024 (KTO), equations 7 and 8. One value per completion; `kl` takes no gradient.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(sign * beta * (logratios - kl)))
