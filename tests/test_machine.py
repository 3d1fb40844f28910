"""What a stage asks of the machine."""

from __future__ import annotations

import platform

import pytest
import torch

from stages.machine import in_any_order, multiplies_in_bf16, trains_on_gpu


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


@pytest.mark.parametrize(("asked", "warn_only"), [(True, True), (True, False), (False, False)])
def test_any_order_is_for_a_block_alone(asked: bool, warn_only: bool) -> None:
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)
        with pytest.raises(KeyError), in_any_order():
            assert not torch.are_deterministic_algorithms_enabled()
            raise KeyError
        assert torch.are_deterministic_algorithms_enabled() is asked
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
