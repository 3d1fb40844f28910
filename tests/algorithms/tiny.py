"""Settings, parts and batches for algorithms on tiny models, and ranks that are threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from stages.algorithms.base import Algorithm, WithReference
from stages.algorithms.batch import Batch, batch_of
from stages.algorithms.dpo import DPO
from stages.algorithms.grpo import GRPO
from stages.algorithms.kto import KTO
from stages.algorithms.parts import Parts
from stages.algorithms.ppo import PPO
from stages.algorithms.reward_model import BradleyTerry
from stages.algorithms.rloo import RLOO
from stages.algorithms.sft import SFT
from stages.config.schema import TrainingSettings
from stages.data.examples import Example
from stages.models.likelihood_reward import LikelihoodReward
from stages.models.reference_table import completion_keys
from stages.models.reward import RewardModel
from stages.rewards.rewards import Rewards
from stages.rollout.rollout import Rollout
from stages.rollout.sampler import Sampler
from stages.trees import Tree
from tests.models.tiny import EOS, SHAPE, tiny_llama, tree

TRAINING: dict[str, Any] = {
    "learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_ratio": 0.25, "weight_decay": 0.01,
    "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-5, "max_grad_norm": 1.0, "num_train_epochs": 1,
    "max_steps": -1, "batch_size": 4, "max_tokens": 4096, "bf16": False, "gradient_checkpointing": False,
    "eval_steps": 0, "max_eval_samples": None, "logging_steps": 1, "keep": "best", "early_stopping_patience": None,
}  # fmt: skip
ONLINE = TRAINING | {
    "rewards": {"verifier": 1.0}, "num_generations": 4, "max_new_tokens": 6, "temperature": 0.7,
    "missing_eos_penalty": 0.0,
}  # fmt: skip
PPO_ONLY = {
    "kl_coef": 0.05, "num_ppo_epochs": 1, "num_mini_batches": 1, "clip_range": 0.2,
    "clip_range_value": 0.2, "vf_coef": 0.1, "value_learning_rate": 1e-3,
    "gamma": 1.0, "gae_lambda": 0.95, "whiten_rewards": False, "center_scores": False,
}  # fmt: skip
GRPO_ONLY = {
    "num_iterations": 1, "num_mini_batches": 1, "beta": 0.04, "clip_range": 0.2, "clip_range_high": 0.28,
    "scale_rewards": True, "kl_estimator": {"_target_": "stages.losses.kl.corrected_k3"},
}  # fmt: skip
RLOO_ONLY = {"num_iterations": 1, "num_mini_batches": 1, "kl_coef": 0.05, "clip_range": 0.2}
KTO_ONLY = {
    "rewards": {}, "max_new_tokens": 6, "beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.5,
}  # fmt: skip
DPO_ONLY = {
    "rewards": {},
    "max_new_tokens": 6,
    "beta": 0.3,
    "loss": {"_target_": "stages.losses.preference.sigmoid"},
}
ALGORITHMS = ["sft", "reward_model", "likelihood", "dpo", "kto", "grpo", "rloo", "ppo"]
Result = TypeVar("Result")


def settings_of(name: str, **changes: Any) -> Any:
    kinds = {
        "sft": (TrainingSettings, TRAINING), "reward_model": (TrainingSettings, TRAINING),
        "likelihood": (TrainingSettings, TRAINING),
        "dpo": (DPO.Settings, TRAINING | DPO_ONLY), "grpo": (GRPO.Settings, ONLINE | GRPO_ONLY),
        "ppo": (PPO.Settings, ONLINE | PPO_ONLY),
        "rloo": (RLOO.Settings, ONLINE | RLOO_ONLY), "kto": (KTO.Settings, TRAINING | KTO_ONLY),
    }  # fmt: skip
    kind, values = kinds[name]
    return kind(**(values | changes))


def low_tokens(examples: Sequence[Example], trees: Sequence[Tree]) -> list[float]:
    """A verifier: the share of a completion's tokens below 48."""
    return [sum(t < 48 for t in c.input_ids) / len(c.input_ids) for tree in trees for c in tree.completions]


def parts_of(
    policy: nn.Module, reward: Callable = low_tokens, eos: Sequence[int] = (EOS, 3, 4, 5, 6)
) -> Parts:
    """Several end tokens, so that some completions of few tokens end by themselves."""
    return Parts(policy, list(eos), torch.float32, Rewards({"verifier": reward}, {"verifier": 1.0}))


def tiny_reward_model(seed: int = 0) -> RewardModel:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(seed)
    config = LlamaConfig(**(SHAPE | {"initializer_range": 0.2}), num_labels=1)
    config.reward_mean, config.reward_std = 0.0, 1.0
    return RewardModel(LlamaForSequenceClassification(config).eval())


def make(name: str, policy: nn.Module | None = None, **changes: Any) -> Algorithm:
    """An algorithm on a fresh tiny model, or on `policy`; `changes` to its settings."""
    if name == "reward_model":
        return BradleyTerry(tiny_reward_model())
    policy = policy or tiny_llama()
    if name == "likelihood":
        return BradleyTerry(LikelihoodReward(policy))
    if name == "sft":
        return SFT(policy)
    return {"dpo": DPO, "kto": KTO, "grpo": GRPO, "rloo": RLOO, "ppo": PPO}[name](
        settings_of(name, **changes), parts_of(policy)
    )


def examples_of(name: str, count: int = 8) -> list[Example]:
    """Trees of unequal sizes, with rankings of two and three where preferences are learnt."""
    g = torch.Generator().manual_seed(7)

    def ids(size: int) -> list[int]:
        return torch.randint(7, 97, (size,), generator=g).tolist()

    def example(index: int) -> Example:
        prompt = [1, *ids(2 + index % 5)]
        if name == "sft":
            return Example(tree(prompt, [*ids(1 + (5 * index) % 9), EOS]), "", None, {})
        if name in ("grpo", "rloo", "ppo"):
            return Example(tree(prompt), "", None, {})
        completions = [[*ids(1 + (3 * index + k) % 6), EOS] for k in range(2 + index % 2)]
        return Example(tree(prompt, *completions), "", [[1.0, 0.0], [0.0, 1.0, 1.0]][index % 2], {})

    return [example(index) for index in range(count)]


class Replay(Sampler):
    """Returns what a real sampler drew once for each prompt, so that ranks can share one set of rollouts."""

    def __init__(self, sampler: Sampler, examples: Sequence[Example], settings: Any) -> None:
        prompts = [example.tree.prompt.input_ids for example in examples]
        torch.manual_seed(1)
        drawn = sampler.sample(
            prompts, settings.num_generations, settings.max_new_tokens, settings.temperature
        )
        self.drawn = {tuple(prompt): rollout for prompt, rollout in zip(prompts, drawn, strict=True)}

    def sample(self, prompts, num_generations, max_new_tokens, temperature=1.0) -> list[Rollout]:
        return [self.drawn[tuple(prompt)] for prompt in prompts]


def replay(algorithm: Algorithm, sampler: Replay) -> None:
    algorithm.parts.__dict__["sampler"] = sampler  # where cached_property keeps it


class Recorder(torch.optim.SGD):
    """An optimizer that keeps the gradients of its step and leaves the weights alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module.parameters(), lr=0.0)
        self.gradients = {}
        self.named = dict(module.named_parameters())

    def step(self, closure=None):
        self.gradients = {name: p.grad.clone() for name, p in self.named.items() if p.grad is not None}


class Ranks:
    """`size` processes as threads: each runs the real code, and their collective calls meet at a barrier."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=300)
        self.local = threading.local()
        self.shelf: dict[int, Any] = {}

    def gather(self, value: Any) -> list[Any]:
        self.shelf[self.local.rank] = value
        self.barrier.wait()
        values = [self.shelf[rank] for rank in range(self.size)]
        self.barrier.wait()
        return values

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather(values)).sum(0)

    def max(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather(values)).max(0).values

    def run(self, work: Callable[[int], Result]) -> list[Result]:
        results: dict[int, Result] = {}
        errors: list[BaseException] = []

        def target(rank: int) -> None:
            self.local.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[rank] for rank in range(self.size)]


class RankAccelerator(Accelerator):
    """One rank of `Ranks`: as in DDP, gradients are averaged in the backward of a forward pass outside no_sync."""

    def __init__(self, ranks: Ranks, module: nn.Module) -> None:
        super().__init__(cpu=True)
        self.ranks, self.module, self.synced, self.no_sync_now = ranks, module, True, False

    @property
    def num_processes(self) -> int:
        return self.ranks.size

    @contextmanager
    def no_sync(self, model):
        self.no_sync_now = True
        yield
        self.no_sync_now = False

    @contextmanager
    def autocast(self):
        self.synced = not self.no_sync_now  # DDP decides in the forward pass
        yield

    def backward(self, loss: Tensor, **_: Any) -> None:
        loss.backward()
        if self.synced:
            for parameter in self.module.parameters():
                mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.ranks.sum(mine) / self.ranks.size


SEED = 3


def remember(algorithm: Algorithm, examples: Sequence[Example]) -> None:
    """The policy, as it is now, is the reference of these examples."""
    if isinstance(algorithm, WithReference):
        requests = algorithm.reference_trees(batch_of(algorithm.prepare(examples, SEED)))
        keys = [key for trees in requests for key in completion_keys(trees)]
        algorithm.reference.fill(keys, torch.cat([algorithm.reference.score(trees) for trees in requests]))


@torch.no_grad()
def experience_of(algorithm: Algorithm, examples: Sequence[Example]) -> list[Batch]:
    """As the loop asks for it; without a step before it, policy and reference are the same."""
    if isinstance(algorithm, WithReference) and not algorithm.reference.rows:
        remember(algorithm, examples)
    return list(algorithm.experience(batch_of(algorithm.prepare(examples, SEED))))
