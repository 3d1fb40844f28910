"""Several rewards with weights, as one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.rewards.scores import check_finite
from stages.trees import Tree

REWARD_MODEL, VERIFIER = "reward_model", "verifier"
Reward = Callable[[Sequence[Example], Sequence[Tree]], Sequence[float | None]]


class RewardBatch(NamedTuple):
    """Rewards of a batch of completions, flattened in tree order."""

    total: Float[Tensor, " batch"]  # weighted sum of the parts; a part that does not apply adds 0
    parts: dict[str, Float[Tensor, " batch"]]  # unweighted, NaN where the part does not apply

    def means(self) -> dict[str, float]:
        """The mean of each part over the completions that it applies to, if it does to any."""
        means = {name: float(part.nanmean()) for name, part in self.parts.items()}
        return {name: mean for name, mean in means.items() if not math.isnan(mean)}


class Rewards:
    """The weighted sum of rewards by name: `reward_model`, `verifier` (data.verifier), `module:function`."""

    def __init__(
        self,
        sources: Mapping[str, Reward],
        weights: Mapping[str, float],
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """tokenizer: for errors, which name completions by their tokens without one."""
        self.sources = sources
        self.weights = weights
        self.tokenizer = tokenizer

    @classmethod
    def from_config(
        cls,
        weights: Mapping[str, float],
        verifier: FunctionReward | None,
        tokenizer: PreTrainedTokenizerBase,
        load_learned: Callable[[], LearnedReward],
    ) -> Rewards:
        """Build what has a weight other than 0; `load_learned` is called only if the reward model is among them.

        `verifier` is that of data.verifier, by whichever of its names it is a reward.
        """

        def build(name: str) -> Reward:
            if name == REWARD_MODEL:
                learned = load_learned()
                return lambda _examples, trees: learned(trees)
            if name == VERIFIER:
                if verifier is None:
                    raise UserError("the reward 'verifier' has a weight, but data.verifier is null")
                return verifier
            return verifier if verifier and name == verifier.name else FunctionReward(name, tokenizer)

        used = {name: float(weight) for name, weight in weights.items() if weight != 0}
        return cls({name: build(name) for name in used}, used, tokenizer)

    def __call__(self, examples: Sequence[Example], trees: Sequence[Tree]) -> RewardBatch:
        """Score every completion; `examples[i]` belongs to `trees[i]`.

        Raises UserError that names the completion where a reward, or their sum, is not finite.
        """
        parts = {}
        total = torch.zeros(sum(len(tree.completions) for tree in trees))
        for name, source in self.sources.items():
            scores = source(examples, trees)
            check_finite(name, scores, examples, trees, self.tokenizer)
            parts[name] = as_tensor(scores)
            total += self.weights[name] * parts[name].where(~parts[name].isnan(), 0.0)
        check_finite("sum of all", total.tolist(), examples, trees, self.tokenizer)
        return RewardBatch(total, parts)

    def scores_of(
        self, source: Reward, examples: Sequence[Example], trees: Sequence[Tree], batch: RewardBatch
    ) -> Float[Tensor, " batch"]:
        """What `source` gives to the completions of `trees`, whose rewards are `batch`; NaN for None. It is called only
        where it is none of these rewards: a verifier judges each completion once."""
        known = (batch.parts[name] for name, used in self.sources.items() if used is source)
        found = next(known, None)
        return as_tensor(source(examples, trees)) if found is None else found


def gold(verifier: Reward, examples: Sequence[Example], trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
    """1 where the verifier gives full marks, else 0."""
    return full_marks(as_tensor(verifier(examples, trees))).float()


def full_marks(scores: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
    """What a verifier calls right: partial credit is no right answer, and neither is NaN, where it does not apply."""
    return scores >= 1.0


def as_tensor(scores: Sequence[float | None]) -> Float[Tensor, " batch"]:
    """Scores with NaN for None."""
    return torch.tensor([math.nan if score is None else score for score in scores], dtype=torch.float32)
