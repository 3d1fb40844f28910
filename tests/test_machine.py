"""What a stage asks of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from stages.machine import trains_on_gpu

# A layer's tensors, sixteen times over: how many pages of 4 KiB the kernel clears for them.
TAKE = """
import resource
import torch
from stages.machine import keep_freed_memory

keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(16):
    states = torch.ones(1 << 20)
    wide = states.repeat(4)
    states = wide * 2
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LARGE = "glibc.malloc.mmap_threshold=131072"


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or trains_on_gpu(), reason="it is glibc's memory that is kept"
)
def test_the_memory_of_a_freed_tensor_serves_the_next_unless_the_user_chose() -> None:
    assert _pages_cleared({}) * 3 < _pages_cleared({"GLIBC_TUNABLES": LARGE})


def _pages_cleared(environment: dict[str, str]) -> int:
    clean = {
        name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", "LD_PRELOAD")
    }
    run = subprocess.run(
        [sys.executable, "-c", TAKE], env=clean | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)
