"""Lean linear layers against autocast's own: the same bits, and no narrow weights between forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stages.models.linear import LeanLinear, keep_no_copies
from tests.models.test_block import model_of, results


def lean(model: Any) -> Any:
    found = copy.deepcopy(model)
    keep_no_copies(found)
    return found


def with_adapters(model: Any) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "gemma2"]
)  # without biases, with some, and with other norms
def test_values_and_gradients_are_autocasts_to_the_bit(name: str, recompute: bool, adapters: bool):
    plain = model_of(name)
    ours, theirs = (with_adapters(each) if adapters else each for each in (lean(plain), plain))
    assert sum(isinstance(layer, LeanLinear) for layer in ours.modules()) == 2 * 7
    for model in (ours, theirs):
        if recompute:
            model.train().activation_checkpointing_enable()
    (states, gradients), (expected, their_gradients) = results(ours, bf16=True), results(theirs, bf16=True)
    assert torch.equal(states, expected) and gradients.keys() == their_gradients.keys()
    for key, gradient in their_gradients.items():
        assert torch.equal(gradients[key], gradient), key


def test_no_narrow_weight_is_kept():
    def narrow(model: Any) -> int:
        weights = [each.bfloat16() for each in model.parameters() if each.dim() == 2]
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda each: (kept.append(each), each)[1], lambda each: each
        ):
            results(model, bf16=True)
        flat = [each for each in kept if each.dim() == 2]
        return sum(
            any(torch.equal(one, weight) for weight in weights for one in (each, each.T)) for each in flat
        )

    plain = model_of("llama")
    assert narrow(plain) == 2 * 7 and narrow(lean(plain)) == 0


def test_what_only_scores_narrows_a_weight_once_for_all_its_passes():
    narrowed: list[Any] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.ops.aten._to_copy.default and args[0].shape == (2, 3):
                narrowed.append(args[0])
            return function(*args, **(kwargs or {}))

    layer = LeanLinear(3, 2)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), Watch():
        assert all(layer(torch.ones(4, 3)).dtype == torch.bfloat16 for _ in range(3))
    assert len(narrowed) == 1


def test_what_autocast_leaves_in_float64_stays_there():
    layer = LeanLinear(3, 2).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(4, 3, dtype=torch.float64)).dtype == torch.float64


def test_a_single_row_without_a_batch_passes():
    layer = LeanLinear(3, 2)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.ones(3)).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0] * 3] * 2


def test_kinds_of_linear_layers_and_the_head_stay():
    class Quantized(nn.Linear):
        pass

    model = model_of("llama")
    mlp = model.model.layers[0].mlp
    mlp.up_proj.__class__ = Quantized
    keep_no_copies(model)
    kinds = [type(layer) for layer in (mlp.up_proj, mlp.gate_proj, model.lm_head)]
    assert kinds == [Quantized, LeanLinear, nn.Linear]
