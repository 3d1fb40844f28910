"""The kinds of reward model, by the name that `reward_model.kind` gives them."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from stages.data.sealed import check_sealed
from stages.models.classifier import classifier_class
from stages.models.likelihood_reward import LikelihoodReward
from stages.models.reward import RewardModel

REWARD_MODELS: dict[str, type[RewardModel]] = {kind.kind: kind for kind in (RewardModel, LikelihoodReward)}


def check_kind(kind: str, path: str | Path, *, revision: str | None = None, trust_remote_code: bool) -> None:
    """Raise UserError where no reward model of `kind` can be made of the model in `path`, as its configuration says."""
    if kind == RewardModel.kind:
        classifier_class(path, revision=revision, trust_remote_code=trust_remote_code)


def load_reward_model(folder: str | Path, *, trust_remote_code: bool = False) -> RewardModel:
    """A trained reward model, frozen, of the kind that its own config.json names."""
    check_sealed(Path(folder))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return REWARD_MODELS[config.reward_kind].from_pretrained(folder, trust_remote_code=trust_remote_code)
