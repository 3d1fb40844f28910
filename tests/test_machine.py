"""What a stage asks of the machine."""

from __future__ import annotations

import platform

import pytest
import torch

from stages.machine import multiplies_in_bf16, trains_on_gpu


@pytest.mark.skipif(trains_on_gpu(), reason="what a CPU can")
@pytest.mark.parametrize(
    "able, found",
    [
        ({"avx2": True, "avx512_f": True}, False),  # Skylake: emulates
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({}, False),
    ],
)
def test_bf16_is_known_by_what_the_cpu_multiplies_in(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], found: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert multiplies_in_bf16() is found


def test_this_cpu_agrees_with_what_torch_says_of_it() -> None:
    if not trains_on_gpu() and platform.machine() == "x86_64":
        known = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        assert multiplies_in_bf16() == known
