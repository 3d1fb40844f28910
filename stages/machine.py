"""What a stage asks of the machine that it runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import parse_flag_from_env


def use_all_cores() -> None:
    """As many threads as TREELINE_THREADS says, else as there are cores.

    OMP_NUM_THREADS is 1 where nobody has set it: accelerate launch does that, and torch would obey. Above 1 it is
    somebody's wish, and is left alone.
    """
    wish = int(os.environ.get("TREELINE_THREADS", "0"))
    if wish or os.environ.get("OMP_NUM_THREADS", "1") == "1":
        # macOS has no affinity
        ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = ours // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(wish or max(1, cores))


def trains_on_gpu() -> bool:
    """A CUDA GPU is there, and the launch has not chosen the CPU."""
    return torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")


def multiplies_in_bf16() -> bool:
    """Whether the device that trains has bfloat16 in hardware. A CPU without it emulates: ten times slower than
    float32."""
    if trains_on_gpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last one on ARM


@contextmanager
def in_any_order() -> Iterator[None]:
    """Without torch's deterministic algorithms, for writes of which no two have one place: on a GPU it would sort them,
    and copy all that is written into, twice."""
    asked = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)
