"""The lean norm and gated MLP against transformers' own: values, gradients, and what the forward keeps."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, Olmo2Config, OlmoConfig, Qwen3MoeConfig

from stages.models.again import made_again
from stages.models.block import LeanMLP, LeanNorm, _RMSNorm, keep_less
from stages.models.hidden import hidden_states
from stages.packing import pack
from tests.models.test_trees import CONFIGS, SHAPE
from tests.models.tiny import tree

LEAN = ["llama", "qwen2", "qwen3", "mistral"]
# Each is like the common block but for one thing.
OTHERS = {
    "olmo": OlmoConfig(
        **{key: value for key, value in SHAPE.items() if key != "head_dim"}
    ),  # norms without weights
    "olmo2": Olmo2Config(**SHAPE),  # norms after attention and MLP
    "gelu": LlamaConfig(**SHAPE, hidden_act="gelu", initializer_range=0.003),
    "experts": Qwen3MoeConfig(**SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
}
IDS = torch.arange(3, 51).view(2, 24)


def model_of(name: str) -> Any:
    """Norms' weights away from one, as training leaves them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHERS[name] if name in OTHERS else CONFIGS[name]).eval()
    for key, parameter in model.named_parameters():
        if "norm" in key:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def replaced(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, LeanNorm | LeanMLP)}


def results(model: Any, bf16: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Last hidden states of IDS, and the gradients of a weighing of them."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        body = model.get_base_model().model if hasattr(model, "get_base_model") else model.model
        states = body(input_ids=IDS, use_cache=False).last_hidden_state
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    gradients = {key: each.grad for key, each in model.named_parameters() if each.grad is not None}
    return states.detach(), gradients


def assert_same(
    found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], close: float
):
    torch.testing.assert_close(found[0], expected[0], rtol=close, atol=close)
    assert found[1].keys() == expected[1].keys() and expected[1]
    for key, gradient in expected[1].items():
        torch.testing.assert_close(
            found[1][key], gradient, rtol=close, atol=close * float(gradient.abs().max())
        )


@pytest.mark.parametrize("name", LEAN)
def test_a_common_block_computes_what_it_did(name: str) -> None:
    plain, lean = model_of(name), model_of(name)
    keep_less(lean)
    assert len(replaced(lean)) == 3 * 2
    assert_same(results(lean), results(plain), 2e-5)


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3", "gpt2", "olmo2"])
def test_other_blocks_stay(name: str) -> None:
    model = model_of(name)
    keep_less(model)
    assert not replaced(model)


def test_of_a_block_that_is_common_in_part_that_part_is_replaced() -> None:
    parts = {"olmo": {"mlp"}, "gelu": {"input_layernorm"}, "experts": {"input_layernorm"}}
    for name, expected in parts.items():
        model = model_of(name)
        keep_less(model)
        assert replaced(model) == {f"model.layers.{layer}.{part}" for layer in (0, 1) for part in expected}


def test_a_norm_that_only_looks_like_one_stays() -> None:
    model = model_of("llama")
    norm = model.model.layers[0].input_layernorm
    kind = type(norm)
    shifted = type("Shifted", (kind,), {"forward": lambda self, states: kind.forward(self, states) * 1.01})
    norm.__class__ = shifted
    keep_less(model)
    assert "model.layers.0.input_layernorm" not in replaced(model)
    assert "model.layers.1.input_layernorm" in replaced(model)


@pytest.mark.parametrize("name", LEAN)
def test_under_autocast_it_is_as_near_to_float32_as_it_was(name: str) -> None:
    """Rounding differs by the order of a sum; an operation in bf16 that was in float32 would show."""
    plain, lean = model_of(name), model_of(name)
    keep_less(lean)
    exact, theirs, ours = results(plain), results(plain, True), results(lean, True)
    assert _off(ours[0], exact[0]) < 1.1 * _off(theirs[0], exact[0])
    whole = [torch.cat([each.flatten() for each in found[1].values()]) for found in (ours, theirs, exact)]
    assert _off(whole[0], whole[2]) < 1.2 * _off(whole[1], whole[2])


def _off(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def test_gradients_are_the_numerical_ones() -> None:
    model = model_of("llama")
    keep_less(model)
    states = torch.randn(2, 3, 32, dtype=torch.double, requires_grad=True)
    weight = torch.rand(32, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(model.model.layers[0].mlp.double(), states)
    assert torch.autograd.gradcheck(lambda x, w: _RMSNorm.apply(x, w, 1e-3, torch.double), (states, weight))


def test_a_backward_under_autocast_is_the_same() -> None:
    model = model_of("llama")
    keep_less(model)
    norm, states = model.model.layers[0].input_layernorm, torch.randn(5, 32, requires_grad=True)
    (expected,) = torch.autograd.grad(norm(states).sin().sum(), states)
    output = norm(states).sin().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(output, states)
    assert torch.equal(found, expected)


def test_a_product_that_is_kept_otherwise_than_whole_is_kept_as_it_is() -> None:
    """A layer behind it that reads a part, or the transpose."""

    class Odd(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + (input.T @ input)[0, :32] + input[:32].square().sum()

    plain, lean = model_of("llama"), model_of("llama")
    keep_less(lean)
    gradients = []
    for model in (plain, lean):
        mlp, states = model.model.layers[0].mlp, torch.linspace(-1, 1, 64 * 32).view(64, 32).requires_grad_()
        mlp.down_proj.__class__ = Odd
        gradients += torch.autograd.grad(mlp(states).sum(), states)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-4)


def test_a_deleted_model_is_gone_at_once() -> None:
    model = model_of("llama")
    keep_less(model)
    weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
    gc.collect()
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["llama", "qwen3"])  # the latter has norms within its attention
def test_a_forward_that_is_given_up_leaves_nothing(name: str) -> None:
    """Without the collector, which would not find what hangs in autograd's graph."""
    model = model_of(name)
    keep_less(model)
    gc.collect()
    gc.disable()
    try:
        with Made() as made, torch.autocast("cpu", torch.bfloat16):
            states = model.model(input_ids=IDS, use_cache=False).last_hidden_state
        assert states.requires_grad
        del states
        gradientless = {
            StorageWeakRef(each.untyped_storage()) for each in [*model.parameters(), *model.buffers()]
        }
        assert all(each.expired() or each in gradientless for each in made.storages)
    finally:
        gc.enable()


def test_no_output_of_a_norm_outlives_the_forward() -> None:
    """Of the two in each layer: the last norm's is the model's output."""
    model = model_of("llama")
    keep_less(model)
    outputs: list[weakref.ref[Tensor]] = []
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.register_forward_hook(
                lambda _, __, output: outputs.append(StorageWeakRef(output.untyped_storage()))  # type: ignore[arg-type]
            )
    states = model.model(input_ids=IDS, use_cache=False).last_hidden_state
    assert len(outputs) == 4 and all(each.expired() for each in outputs)  # type: ignore[attr-defined]
    assert states.requires_grad


def test_what_is_made_again_is_made_once_for_all_its_readers_and_for_each_pass() -> None:
    made: list[int] = []
    source = torch.linspace(-1, 1, 6, requires_grad=True)

    def make() -> Tensor:
        made.append(1)
        return source.detach() * 2

    tensor = source * 2
    with made_again(tensor, make):
        total = (tensor.square() + tensor.view(6).square() + tensor.sin()).sum()
    for passes in (1, 2):
        (gradient,) = torch.autograd.grad(total, source, retain_graph=True)
        torch.testing.assert_close(gradient, 2 * (4 * tensor + tensor.cos()))
        assert len(made) == passes


def test_twice_is_as_good_as_once() -> None:
    plain, lean = model_of("llama"), model_of("llama")
    for _ in range(2):
        keep_less(lean)
    assert_same(results(lean), results(plain), 2e-5)


def test_adapters_copies_and_moves_keep_it() -> None:
    adapters = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False)
    plain, lean = model_of("llama"), model_of("llama")
    keep_less(lean)
    torch.manual_seed(1)
    plain = get_peft_model(plain, adapters)
    torch.manual_seed(1)
    lean = get_peft_model(lean, adapters)
    expected = results(plain)
    assert_same(results(lean), expected, 2e-5)
    twin = copy.deepcopy(lean)
    for parameter in lean.parameters():  # a copy that still reads the original's weights would show
        parameter.data.zero_()
    assert_same(results(twin), expected, 2e-5)


def test_checkpointing_keeps_only_what_it_would() -> None:
    plain, lean = model_of("llama").train(), model_of("llama").train()
    keep_less(lean)
    for model in (plain, lean):
        model.activation_checkpointing_enable()
    assert_same(results(lean), results(plain), 2e-5)
    assert kept(lean) <= kept(plain)


def test_a_compiled_block_runs_as_transformers_writes_it() -> None:
    plain, lean = model_of("llama"), model_of("llama")
    keep_less(lean)
    states = torch.linspace(-1, 1, 96).view(1, 3, 32)
    for name in ("post_attention_layernorm", "mlp"):
        theirs, ours = (getattr(model.model.layers[0], name) for model in (plain, lean))
        found = torch.compile(ours, backend="eager", fullgraph=True)(states)
        assert torch.equal(found, theirs(states))
        assert found.grad_fn.name() == theirs(states).grad_fn.name()
    assert "_RMSNorm" in lean.model.layers[0].input_layernorm(states).grad_fn.name()


def test_about_half_is_kept() -> None:
    """In SmolLM2's proportions."""
    size = {"num_hidden_layers": 4, "hidden_size": 48, "intermediate_size": 128, "head_dim": 12}
    config = LlamaConfig(**(SHAPE | size | {"num_key_value_heads": 1}))
    plain = AutoModelForCausalLM.from_config(config)
    lean = copy.deepcopy(plain)
    keep_less(lean)
    assert kept(lean) < 0.6 * kept(plain)
    assert kept(lean, bf16=True) < 0.52 * kept(plain, bf16=True)


def kept(model: Any, bf16: bool = False) -> int:
    """Bytes of tensors that live on after a forward, beside the weights: what its backward needs."""
    packed = pack([tree([5] * 120, [7] * 90, [9] * 80)], torch.device("cpu"))
    with Made() as made, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        states = hidden_states(model, packed)
    assert states.requires_grad
    weights = {StorageWeakRef(each.untyped_storage()) for each in model.parameters()}
    return sum(size for each, size in made.storages.items() if not each.expired() and each not in weights)


class Made(TorchDispatchMode):
    """Every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.storages[StorageWeakRef(storage)] = storage.nbytes()
        return found
