"""From what a model wrote to what it is worth, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase

from stages.data.examples import Example
from stages.evaluation.answer import Answer, Sample
from stages.evaluation.measure import Measured
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.rewards.rewards import gold
from stages.rewards.scores import check_finite
from stages.trees import Tree


@dataclass(frozen=True)
class Judge:
    """The verifier and the reward model, where there are any."""

    tokenizer: PreTrainedTokenizerBase
    verifier: FunctionReward | None
    reward_model: LearnedReward | None

    def __call__(self, prompts: Sequence[Example], measured: Measured, kl: Sequence[float]) -> list[Answer]:
        """One Answer per prompt; `kl` is the mean over a prompt's samples."""
        trees = [rollout.tree for rollout in measured.answers]
        if not trees:
            return []
        unknown: list[float | None] = [None] * len(trees)
        golds = unknown if self.verifier is None else gold(self.verifier, prompts, trees).tolist()
        scores = unknown if self.reward_model is None else self.reward_model(trees)
        check_finite("reward_model", scores, prompts, trees, self.tokenizer)
        _, mask, entropy = measured.logprobs
        entropies = measured.by_prompt((entropy * mask).sum(1)).sum(1).tolist()
        tokens = measured.by_prompt(mask.sum(1)).sum(1).tolist()
        samples = self.judge_samples(prompts, measured.samples)
        ids = [tree.completions[0].input_ids for tree in trees]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            Answer(
                completion=texts[i],
                length=len(ids[i]),
                no_eos=float(not rollout.finished[0]),
                gold=golds[i],
                reward_model_score=scores[i],
                kl=kl[i],
                entropy=entropies[i],
                tokens=tokens[i],
                samples=samples[i],
            )
            for i, rollout in enumerate(measured.answers)
        ]

    def judge_samples(self, prompts: Sequence[Example], trees: Sequence[Tree]) -> list[tuple[Sample, ...]]:
        """What both say of each sample, prompt by prompt; nothing where one of them is not there."""
        if self.verifier is None or self.reward_model is None:
            return [()] * len(trees)
        rewards = self.reward_model.raw(trees)
        check_finite("reward_model", rewards, prompts, trees, self.tokenizer)
        golds = gold(self.verifier, prompts, trees).tolist()
        judged = map(Sample, golds, rewards)
        return [tuple(islice(judged, len(tree.completions))) for tree in trees]
