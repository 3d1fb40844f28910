"""A transformer's layers by torch.compile (Ansel et al. 2024): `model.torch_compile`.

By the layer, not the model: they are alike, so one compilation of seconds serves them all, for any number of tokens.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from transformers.modeling_layers import GradientCheckpointingLayer

from stages.config.errors import UserError

log = logging.getLogger(__name__)

VARIANTS = (
    64  # of a layer: with gradient and without, each adapter, one row and several; torch gives up above 8
)


def check_compiler() -> None:
    """Raise UserError where nothing can be compiled."""
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(
            "params.yaml: model.torch_compile needs a C++ compiler, and there is none; install g++, or set it to false"
        ) from error


def allow_variants() -> None:
    """Of one function: above its limit torch runs it uncompiled, and says nothing."""
    torch._dynamo.config.recompile_limit = VARIANTS


def compile_layers(module: nn.Module) -> None:
    """Compile every transformer layer in `module`, in place, when it first runs; names of weights stay."""
    allow_variants()
    layers = _layers(module)
    for layer in layers:
        layer.compile(dynamic=True)
    if not layers:
        log.warning(
            "model.torch_compile: %s has no layers that are known as such; it runs as it is",
            type(module).__name__,
        )


def compiled(module: nn.Module) -> bool:
    """Whether its layers are compiled. A copy of it is not: copying loses that."""
    return any(layer._compiled_call_impl is not None for layer in _layers(module))


def uncompiled() -> AbstractContextManager[None]:
    """Compute with torch's own operations: for a cache, or a row or two, compiling takes far longer."""
    return torch.compiler.set_stance("force_eager")


def _layers(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, GradientCheckpointingLayer)]
