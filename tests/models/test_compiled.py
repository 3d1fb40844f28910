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
from stages.models import compiled as module
from stages.models.block import keep_less
from stages.models.compiled import compile_layers, compiled
from stages.models.hidden import pack_for
from stages.models.load import add_adapter
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from stages.models.reference import Reference
from stages.packing import pack
from stages.rollout import decoder
from stages.rollout.sampler import Sampler
from stages.trees import Tree
from tests.models.tiny import lora, shake, tiny_llama, tree

TREES = [
    [tree([5, 6, 7], [8, 9], [10, 11, 12]), tree([13, 14], [15, 16, 17])],
    [tree([5, 6, 7] * 90, [8, 9] * 50), tree([13, 14] * 90, [15, 16] * 90)],  # two rows
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
    return found.detach(), [parameter.grad for parameter in model.parameters() if parameter.requires_grad]  # type: ignore[misc]


def test_the_door_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(module, "get_cpp_compiler", none)
    with pytest.raises(UserError, match="params.yaml: model.torch_compile needs a C\\+\\+ compiler"):
        validate(compose_config(["model.torch_compile=true"]))


@pytest.mark.parametrize(
    ("adapters", "recompute", "bf16"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_it_computes_what_the_model_does_in_one_piece(adapters: bool, recompute: bool, bf16: bool):
    assert [len(pack(trees).input_ids) for trees in TREES] == [1, 2, 1]
    plain, ours = (
        add_adapter(tiny_llama().train(), lora(on=adapters, torch_compile=c, lora_target_modules=["q_proj"]))
        for c in (False, True)
    )
    keep_less(ours)  # as load_model() does: compiled, none of it is in the way
    for model in (plain, ours):
        shake(model)
        if recompute:
            model.activation_checkpointing_enable()  # type: ignore[operator]
    assert list(ours.state_dict()) == list(plain.state_dict())
    tolerance = {"rtol": 5e-2, "atol": 5e-2} if bf16 else {"rtol": 1e-3, "atol": 1e-4}
    for trees in TREES:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            (expected, their_gradients), (found, gradients) = (learn(model, trees) for model in (plain, ours))
        torch.testing.assert_close(found, expected, **tolerance)
        for mine, theirs in zip(gradients, their_gradients, strict=True):
            assert (mine - theirs).norm() <= tolerance["rtol"] * theirs.norm() + 1e-4
    assert recompute or counters["graph_break"] == {}
    # for one row, and for several; with adapters also for the first layer, whose input has no gradient
    assert recompute or counters["stats"]["unique_graphs"] == (4 if adapters else 2)


def test_runs_of_any_number_are_one_compilation():
    plain, ours = (tiny_llama(max_position_embeddings=512).train() for _ in range(2))
    compile_layers(ours)
    for model in (plain, ours):
        probe(model)
    counters.clear()
    for lengths in ([300], [150, 140], [200, 150, 140, 130]):
        trees = [tree([1, 5 + i], [7] * length) for i, length in enumerate(lengths)]
        assert pack_for(ours, trees).runs is not None
        (expected, theirs), (found, mine) = (learn(model, trees) for model in (plain, ours))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        for gradient, other in zip(mine, theirs, strict=True):
            assert (gradient - other).norm() <= 1e-3 * other.norm() + 1e-4
    assert counters["graph_break"] == {} and counters["stats"]["unique_graphs"] == 1


def test_a_reference_is_compiled_as_its_policy_is_and_gives_the_same_bits():
    policy = add_adapter(tiny_llama(), lora(on=False, torch_compile=True))
    reference = Reference(policy)
    assert compiled(policy) and compiled(reference.model) and not compiled(tiny_llama())
    with torch.no_grad():
        for trees in TREES:
            found = reference.logprobs(trees, temperature=1.0, microbatches=[[*range(len(trees))]]).logprobs
            assert torch.equal(found, completion_logprobs(policy, trees).logprobs)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64]
)  # the sampler runs the policy itself, or a copy
def test_sampling_is_not_compiled(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise TypeError

    monkeypatch.setattr(decoder, "NativeDecoder", refuse)
    policy = tiny_llama()
    compile_layers(policy)
    found = Sampler(policy, [2], dtype=dtype).sample([[5, 6, 7]], 2, 4, temperature=0.0)
    assert counters["stats"]["unique_graphs"] == 0
    assert found[0].tree == Sampler(tiny_llama(), [2]).sample([[5, 6, 7]], 2, 4, temperature=0.0)[0].tree


def test_a_model_whose_layers_are_not_known_stays_as_it_is(caplog: pytest.LogCaptureFixture):
    compile_layers(nn.Sequential(nn.Linear(2, 2)))
    assert "Sequential has no layers that are known" in caplog.text
