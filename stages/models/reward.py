"""The reward model: a transformer with a scalar head on each completion's last token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from stages.config.errors import UserError
from stages.models.classifier import HEAD, classifier_class
from stages.models.hidden import hidden_states, pack_for, state_size
from stages.models.load import add_adapter, load_model
from stages.models.logprobs import map_microbatches
from stages.packing import split_trees
from stages.trees import Tree


class RewardModel(nn.Module):
    """Raw rewards from `forward`; `score` subtracts `reward_mean` and divides by `reward_std`, kept in the config.

    They are set on the preference data, whose completions a policy starts from, so that it starts near mean 0.
    """

    kind: ClassVar[str] = "head"

    def __init__(
        self,
        model: nn.Module,
        config: PreTrainedConfig | None = None,
        head: nn.Module | None = None,
        scope: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`config` and `head` are the model's own unless given; `scope` is entered while a reward is computed."""
        super().__init__()
        self.model: Any = model  # a transformers model, in peft or not
        self.config = config or self.model.config
        self.scope = scope
        self.separate_head = head

    @classmethod
    def from_policy(cls, folder: str | Path, settings: DictConfig) -> RewardModel:
        """A language model's transformer with a fresh head, its weights of standard deviation 1 / sqrt(hidden + 1)."""
        model = _load_classifier(folder, fresh=HEAD, trust_remote_code=settings.trust_remote_code)
        head = getattr(model, HEAD)
        nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1))
        model.config.reward_kind, model.config.reward_mean, model.config.reward_std = cls.kind, 0.0, 1.0
        return cls(add_adapter(model, settings, head=HEAD))

    @classmethod
    def load(cls, folder: str | Path, *, trust_remote_code: bool = False) -> RewardModel:
        """The weights that a reward_model stage wrote."""
        return cls(_load_classifier(folder, trust_remote_code=trust_remote_code))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust_remote_code: bool = False) -> RewardModel:
        """A trained one, frozen."""
        reward_model = cls.load(folder, trust_remote_code=trust_remote_code).eval().requires_grad_(False)
        # an adapter's base knows nothing of its normalisation
        reward_model.config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        return reward_model

    def forward(self, trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
        """One raw reward per completion, in order."""
        packed = pack_for(self.model, trees)
        ends = hidden_states(self.model, packed).index_select(0, packed.ends)
        # bf16 has 8 bits: too few to rank near-equal rewards.
        with torch.autocast(ends.device.type, enabled=False):
            return self.head(ends.float()).squeeze(-1)

    def get_output_embeddings(self) -> nn.Module | None:
        """The vocabulary head, where the reward goes through one: as transformers' models have it."""
        return self.model.get_output_embeddings()

    @property
    def head(self) -> nn.Module:
        if self.separate_head is not None:
            return self.separate_head
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return getattr(inner, HEAD)

    @torch.no_grad()
    def score(self, trees: Sequence[Tree], max_tokens: int) -> Float[Tensor, " batch"]:
        """Normalised rewards, by token budget."""
        with self.scope():
            (rewards,) = map_microbatches(lambda group: (self(group),), trees, split_trees(trees, max_tokens))
        return (rewards - self.config.reward_mean) / self.config.reward_std


def _load_classifier(
    folder: str | Path, *, fresh: str | None = None, trust_remote_code: bool
) -> PreTrainedModel:
    """Raises UserError where there is none that reads each completion's last token."""
    kind = classifier_class(folder, trust_remote_code=trust_remote_code)
    model = load_model(folder, kind, num_labels=1, fresh=fresh, trust_remote_code=trust_remote_code)
    head = getattr(model, HEAD, None)
    if not isinstance(head, nn.Linear) or head.in_features != state_size(model):
        raise UserError(
            f"reward_model.kind: {type(model).__name__} has no head on its last states; set it to likelihood, which "
            "needs none"
        )
    return model
