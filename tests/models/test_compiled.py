"""model.torch_compile: refused without a compiler; with one, the same numbers, from one compilation for all layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler

from stages.config.compose import compose_config
from stages.config.errors import UserError
from stages.config.validate import validate
from stages.models import compiled
from stages.models.compiled import compile_alike, compile_layers
from stages.models.logprobs import completion_logprobs
from stages.models.reference import Reference
from stages.packing import Tree
from stages.rollout.sampler import Sampler
from tests.models.tiny import tiny_llama, tree

TREES = [
    [tree([5, 6, 7], [8, 9], [10, 11, 12]), tree([13, 14], [15, 16, 17])],
    [tree([5, 6, 7] * 90, [8, 9] * 50), tree([13, 14] * 90, [15, 16, 17])],  # two rows
    [tree([5, 6, 7, 8, 9], [8, 9], [10, 11, 12])],
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No code of other tests; and types are not checked, for that cannot be traced."""
    torch._dynamo.reset()
    counters.clear()
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
    torch._dynamo.reset()


def learn(model: nn.Module, trees: list[Tree]) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    found = completion_logprobs(model, trees).logprobs
    found.sum().backward()
    return found.detach(), [parameter.grad for parameter in model.parameters()]  # type: ignore[misc]


def test_the_door_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(compiled, "get_cpp_compiler", none)
    with pytest.raises(UserError, match="params.yaml: model.torch_compile needs a C\\+\\+ compiler"):
        validate(compose_config(["model.torch_compile=true"]))


def test_it_computes_what_the_model_does_in_one_piece():
    plain, ours = tiny_llama().train(), tiny_llama().train()
    compile_layers(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    for trees in TREES:
        (expected, their_gradients), (found, gradients) = (learn(model, trees) for model in (plain, ours))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(gradients, their_gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    assert counters["graph_break"] == {}
    assert (
        counters["stats"]["unique_graphs"] <= 2
    )  # for one row, and for several; not for each layer or length


def test_a_reference_is_compiled_as_its_policy_is_and_sampling_is_not():
    policy = tiny_llama()
    compile_layers(policy)
    reference: Any = Reference(policy).model
    assert all(layer._compiled_call_impl for layer in reference.model.layers)
    other = tiny_llama()
    compile_alike(other, tiny_llama())
    assert not any(layer._compiled_call_impl for layer in other.model.layers)
    sampler = Sampler(policy, [2], dtype=torch.float32)
    found = sampler.sample([[5, 6, 7]], 2, 4, temperature=0.0)
    assert counters["stats"]["unique_graphs"] == 0
    assert found[0].tree == Sampler(tiny_llama(), [2]).sample([[5, 6, 7]], 2, 4, temperature=0.0)[0].tree
