"""The first ratio is 1, to the last bit: a policy that has not moved is the one that drew its completions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from stages.algorithms.base import Loss
from stages.algorithms.grpo import GRPO
from stages.algorithms.ppo import PPO
from stages.algorithms.rloo import RLOO
from stages.data.examples import Example
from stages.models.load import add_adapter
from tests.algorithms.tiny import experience_of, parts_of, settings_of
from tests.models.tiny import lora, tiny_llama, tree

# what makes each take several updates of a batch, and its weight of the KL
UPDATES = {"grpo": "num_iterations", "rloo": "num_iterations", "ppo": "num_ppo_epochs"}
KL = {"grpo": "beta", "rloo": "kl_coef", "ppo": "kl_coef"}
KINDS = {"grpo": GRPO, "rloo": RLOO, "ppo": PPO}
MAX_TOKENS = 150  # two trees a microbatch: 12 of 7 tokens, and four completions of 12


def prompts() -> list[Example]:
    """Of equal length, as all completions are: what shares a microbatch then follows from their order alone."""
    g = torch.Generator().manual_seed(7)
    rows = [[1, *torch.randint(7, 97, (6,), generator=g).tolist()] for _ in range(12)]
    return [Example(tree(row), "", None, {}) for row in rows]


def first_losses(name: str, bf16: bool, adapters: bool = False, **changes) -> tuple[list[Loss], int, list]:
    """Of the microbatches of the first optimizer step, as the loop computes them; how many steps there are, and the KL
    that was seen before them."""
    policy = tiny_llama()
    policy = add_adapter(policy, lora()) if adapters else policy
    settings = settings_of(name, max_new_tokens=12, max_tokens=MAX_TOKENS, **changes)
    algorithm = KINDS[name](settings, parts_of(policy, eos=[]))
    precision = torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()
    torch.manual_seed(0)
    algorithm.eval()
    with precision:
        batches = experience_of(algorithm, prompts())
        microbatches = batches[0].split(MAX_TOKENS)
        assert len(microbatches) > 1
        algorithm.train()
        losses = [algorithm(part) for part in microbatches]
        return losses, len(batches), algorithm.observed["objective/kl_k1"]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kl", [0.0, 0.05])
@pytest.mark.parametrize(("epochs", "parts"), [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("name", UPDATES)
def test_the_first_ratio_is_1(name: str, epochs: int, parts: int, kl: float, bf16: bool):
    changes = {UPDATES[name]: epochs, KL[name]: kl, "num_mini_batches": parts}
    losses, steps, _ = first_losses(name, bf16, **changes)
    assert steps == epochs * parts
    for loss in losses:
        assert float(loss.metrics["train/ratio"].detach()) == float(loss.weight)
        assert float(loss.metrics["train/clip_fraction"]) == 0


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("name", UPDATES)
def test_the_first_kl_is_0_in_bf16(name: str, adapters: bool):
    """Policy and reference are scored in the same microbatches; in GRPO it is the pass that trains."""
    losses, _, observed = first_losses(name, True, adapters, **{KL[name]: 0.05})
    seen = observed or [loss.metrics["objective/kl_k1"][None] for loss in losses]
    assert not torch.cat(seen).any()
    if name == "grpo":
        assert not any(float(loss.metrics["train/kl"].detach()) for loss in losses)
