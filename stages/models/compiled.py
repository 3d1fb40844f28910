"""A transformer's layers by torch.compile (Ansel et al. 2024): `model.torch_compile`.

By the layer, not the model: they are alike, so one compilation of seconds serves them all, for any number of tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.config.errors import UserError

VARIANTS = (
    64  # of one layer: with gradient or without, each adapter, one row or several; torch gives up above 8
)


def check_compiler() -> None:
    """Raise UserError where nothing can be compiled."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "params.yaml: model.torch_compile needs a C++ compiler, and there is none; install g++, or set it to false"
        ) from error


def compile_layers(module: nn.Module) -> None:
    """Compile every transformer layer in `module`, in place, when it first runs; names of weights stay."""
    torch._dynamo.config.recompile_limit = VARIANTS
    for layer in _layers(module):
        layer.compile(dynamic=True)


def compile_alike(copy: nn.Module, module: nn.Module) -> None:
    """Where `module`'s layers are compiled, those of a copy of it, too: copying loses that, and rounds otherwise."""
    if any(layer._compiled_call_impl for layer in _layers(module)):
        compile_layers(copy)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compute with torch's own operations, where compiling for some rows or a cache would take far longer. Of
    flex_attention, on the CPU the forward only."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        yield


def _layers(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]
