"""model.liger: refused where it cannot run, and what it is told to replace where it can."""

from __future__ import annotations

import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama

from stages.config.compose import compose_config
from stages.config.errors import UserError
from stages.config.validate import validate
from stages.models import liger
from stages.models.liger import apply_liger
from stages.models.probe import probe
from tests.models.tiny import tiny_llama


@pytest.mark.parametrize(
    ("cuda", "cpu_launch", "message"),
    [
        (False, "false", "params.yaml: model.liger needs a CUDA GPU, and this runs on the CPU"),
        (True, "true", "params.yaml: model.liger needs a CUDA GPU, and this runs on the CPU"),
        (True, "false", 'needs the package liger-kernel: .venv/bin/pip install ".[liger]"'),
    ],
)
def test_the_door_says_what_is_missing(
    cuda: bool, cpu_launch: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", cpu_launch)
    monkeypatch.setattr(liger, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        validate(compose_config(["model.liger=true"]))
    assert "\n" not in str(error.value)


def test_the_door_opens_where_both_are_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(liger, "find_spec", lambda name: object())
    validate(compose_config(["model.liger=true"]))


def test_every_transformer_of_an_algorithm_but_no_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """And nothing that is loaded later: Liger puts its classes into the family's module too."""
    seen: list[tuple[Any, dict[str, bool]]] = []

    def patch(model: nn.Module, **options: bool) -> None:
        seen.append((model, options))
        monkeypatch.setattr(modeling_llama, "LlamaRMSNorm", object)

    package = SimpleNamespace(
        MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": None}, _apply_liger_kernel_to_instance=patch
    )
    norm = modeling_llama.LlamaRMSNorm
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", package)
    policy, reference, other = tiny_llama(0), tiny_llama(1), tiny_llama(2)
    for model in (policy, reference, other):
        probe(model)
    other.config.model_type = "unheard_of"
    with caplog.at_level(logging.WARNING):
        apply_liger(nn.ModuleList([policy, reference, other]))
    assert [model for model, _ in seen] == [policy.model, reference.model]
    assert all(
        options == {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
        for _, options in seen
    )
    assert modeling_llama.LlamaRMSNorm is norm
    assert "there are no kernels for unheard_of" in caplog.text
