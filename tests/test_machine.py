"""What a stage asks of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from stages.machine import multiplies_in_bf16, trains_on_gpu

START = """
import resource
import torch
from stages.machine import give_back_freed_memory, keep_freed_memory

keep_freed_memory()
"""
# A layer's tensors, sixteen times over: how many pages of 4 KiB the kernel clears for them.
TAKE = """
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    states = torch.ones(1 << 22)
    wide = states.repeat(4)
    states = wide * 2
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# MiB in memory: with 64 blocks of 4 MiB, with every second one of them freed, and with that given back.
GIVE_BACK = """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

blocks = [torch.ones(1 << 20) for _ in range(64)]
full = resident()
blocks = blocks[::2]
freed = resident()
give_back_freed_memory()
print(full - freed, freed - resident())
"""
LARGE = "glibc.malloc.mmap_threshold=131072"


needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or trains_on_gpu(), reason="it is glibc's memory that is kept"
)


@needs_glibc
def test_the_memory_of_a_freed_tensor_serves_the_next_unless_the_user_chose() -> None:
    assert int(_printed(TAKE, {})) * 3 < int(_printed(TAKE, {"GLIBC_TUNABLES": LARGE}))


@needs_glibc
def test_what_is_kept_can_be_given_back() -> None:
    kept, given = map(int, _printed(GIVE_BACK, {}).split())
    assert abs(kept) < 16
    assert given > 96


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


def _printed(code: str, environment: dict[str, str]) -> str:
    clean = {
        name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "LD_PRELOAD")
    }
    command = [sys.executable, "-c", START + code]
    run = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout
