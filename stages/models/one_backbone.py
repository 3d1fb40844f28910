"""A reward model on the policy's own base: its adapter is switched in while it scores. Two models, one backbone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import AutoConfig

from stages.data.sealed import check_sealed
from stages.models.adapters import ADAPTER, base_of, put_adapter, read_adapter
from stages.models.classifier import HEAD
from stages.models.reward import RewardModel
from stages.models.reward_kinds import REWARD_MODELS

log = logging.getLogger(__name__)

REWARD_ADAPTER = "reward"


def shares_base(folder: Path, base: Path) -> bool:
    """Whether `folder` holds an adapter of the model in folder `base`."""
    if not (folder / ADAPTER).exists():
        return False
    check_sealed(folder)
    return Path(base_of(folder, PeftConfig.from_pretrained(str(folder)))) == base.resolve()


def attach_reward_model(policy: PeftModel, folder: Path, *, trust_remote_code: bool = False) -> RewardModel:
    """The trained reward model in `folder`, frozen, as one more adapter of `policy`.

    `policy` must be adapters on the model that the reward model was trained on: see `shares_base`. Its own adapter
    stays the active one but while a reward is computed. Attach it before the optimizer is made: what is trained, and
    what a checkpoint holds, is settled then. Raises UserError where the adapter's layers are not the policy's.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    adapter, weights = read_adapter(folder)
    adapter.task_type, adapter.inference_mode = None, True
    adapter.modules_to_save = adapter.exclude_modules = None  # type: ignore[attr-defined]  # its head stands apart
    head = _take_head(weights)
    policy.add_adapter(REWARD_ADAPTER, adapter)
    put_adapter(policy, weights, REWARD_ADAPTER, folder)
    for name, parameter in policy.named_parameters():
        if f".{REWARD_ADAPTER}." in name:
            parameter.requires_grad_(False)
    log.info("the reward model is an adapter on the policy's own base")
    kind = REWARD_MODELS[config.reward_kind]
    return kind(policy, config=config, head=head, scope=lambda: switched(policy, REWARD_ADAPTER))


@contextmanager
def switched(policy: PeftModel, name: str) -> Iterator[None]:
    """Run `policy` with adapter `name` in the place of the one that is trained."""
    trained: Any = policy.active_adapter
    policy.set_adapter(name, inference_mode=True)
    try:
        yield
    finally:
        policy.set_adapter(trained)


def _take_head(weights: dict[str, Tensor]) -> nn.Module | None:
    """The reward head's weight out of an adapter's, if there is one among them."""
    names = [name for name in weights if name.endswith(f".{HEAD}.weight")]
    if not names:
        return None
    weight = weights.pop(names[0])
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight = nn.Parameter(weight, requires_grad=False)
    return head
