"""Greedy answers to held-out prompts, while RL trains: how many are right, and what the run's own rewards say."""

from __future__ import annotations

from collections.abc import Sequence

from stages.algorithms.parts import Parts
from stages.data.examples import Example
from stages.rewards.rewards import full_marks
from stages.training.evaluation import Criterion, Evaluation

GOLD = Criterion("eval/gold_accuracy", greater_is_better=True, stop_at_fall=True)
REWARD = Criterion("eval/reward", greater_is_better=True, stop_at_fall=True)


def score_answers(parts: Parts, examples: Sequence[Example], max_new_tokens: int) -> Evaluation:
    """eval/gold_accuracy: the share that the verifier accepts, which chooses where there is a verifier, for a training
    reward can be gamed. eval/reward: the mean of the weighted sum of rewards, where the algorithm has any, without
    penalties; eval/rewards/<name>: the mean of each, unweighted, where there are several.

    Nothing, and no sampler, where there is neither verifier nor reward. Raises UserError where one of them fails or
    gives what is not finite."""
    if not examples or (parts.verifier is None and not parts.rewards.sources):
        return Evaluation()
    prompts = [example.tree.prompt.input_ids for example in examples]
    rollouts = parts.sampler.sample(prompts, 1, max_new_tokens, temperature=0.0)
    trees = [rollout.tree for rollout in rollouts]
    rewards = parts.rewards(examples, trees)
    values: dict[str, list[float]] = {}  # the first one chooses
    if parts.verifier is not None:
        verified = parts.rewards.scores_of(parts.verifier, examples, trees, rewards)
        values[GOLD.metric] = full_marks(verified).float().tolist()
    if parts.rewards.sources:
        values[REWARD.metric] = rewards.total.tolist()
    metrics = {name: sum(scores) / len(scores) for name, scores in values.items()}
    if len(parts.rewards.sources) > 1:
        metrics |= {f"eval/rewards/{name}": mean for name, mean in rewards.means().items()}
    return Evaluation(metrics, next(iter(values.values())), [1.0] * len(examples))
