"""What a stage asks of the machine that it runs on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import parse_flag_from_env

from stages.config.errors import UserError

MOST_THREADS = 1024  # more than the cores that one process has anywhere


def check_threads() -> None:
    """Raise UserError where a variable that is to be a number of threads is none."""
    for name in ("TREELINE_THREADS", "OMP_NUM_THREADS"):
        _threads(name)


def _threads(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_THREADS:
        raise UserError(f"{name}: '{text[:40]}' must be a whole number of threads, from 1 to {MOST_THREADS}")
    return int(text)


def use_all_cores() -> None:
    """As many threads as TREELINE_THREADS says, else as there are cores.

    OMP_NUM_THREADS is 1 where nobody has set it: accelerate launch does that, and torch would obey. Above 1 it is
    somebody's wish, and is left alone.
    """
    wish = _threads("TREELINE_THREADS")
    if wish or _threads("OMP_NUM_THREADS") in (None, 1):
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
