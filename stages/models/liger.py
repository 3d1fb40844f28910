"""Liger's fused kernels (Hsu et al. 2024) in place of a transformer's own modules: `model.liger`, for CUDA."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import nn

from stages.config.errors import UserError
from stages.machine import trains_on_gpu

log = logging.getLogger(__name__)


def check_liger() -> None:
    """Raise UserError where the kernels cannot run."""
    if not trains_on_gpu():
        raise UserError(
            "params.yaml: model.liger needs a CUDA GPU, and this runs on the CPU; set it to false, or start with "
            "TREELINE_LAUNCH=gpu where there is one"
        )
    if find_spec("liger_kernel") is None:
        raise UserError(
            'params.yaml: model.liger needs the package liger-kernel: .venv/bin/pip install ".[liger]"'
        )


def apply_liger(module: nn.Module) -> None:
    """Replace norms and gated MLPs of every transformer in `module`, in place; its weights stay.

    Not the cross entropy: the head is computed on the trained tokens alone, in chunks (stages/models/logprobs.py). Nor
    rotary positions, which Liger replaces for all models of a family, on the CPU too.
    """
    liger = import_module("liger_kernel.transformers.monkey_patch")  # an extra
    bodies: list[Any] = [part for part in module.modules() if hasattr(part, "takes_trees")]  # set by probe()
    for body in bodies:
        kind = body.config.model_type
        if kind not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
            log.warning("model.liger: there are no kernels for %s, which stays as it is", kind)
        else:
            family = vars(sys.modules[type(body).__module__])
            own = dict(family)
            liger._apply_liger_kernel_to_instance(
                body, rope=False, cross_entropy=False, fused_linear_cross_entropy=False
            )
            # Its classes are Liger's now, and models that are loaded later would be made of them.
            family.update(own)
