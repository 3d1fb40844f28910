"""What a stage asks of the machine that it runs on."""

from __future__ import annotations

import ctypes
import os
import platform

import torch
from accelerate.utils import parse_flag_from_env

# glibc.malloc's names, their numbers in mallopt(3), and values: no tensor is mapped by itself, the heap grows by
# 256 MiB and shrinks where 2 GiB at its end are free
KEEP = {"mmap_max": (-4, 0), "top_pad": (-2, 256 * 2**20), "trim_threshold": (-1, 2**31 - 1)}


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


def keep_freed_memory() -> None:
    """Where tensors live in main memory: what one frees, the next one takes.

    glibc hands the memory of a large tensor back at once, and the kernel clears each page of it anew when the next
    tensor touches it: up to a third of a training step. Other C libraries are left as they are, and so is one that
    GLIBC_TUNABLES or a preloaded allocator already speaks for.
    """
    if _is_ours_to_set():
        libc = ctypes.CDLL(None)
        for option, value in KEEP.values():
            libc.mallopt(option, value)


def give_back_freed_memory() -> None:
    """Now and then: blocks of many lengths split the heap, and what is kept would grow slowly."""
    if _is_ours_to_set():
        ctypes.CDLL(None).malloc_trim(0)


def _is_ours_to_set() -> bool:
    chosen = "GLIBC_TUNABLES" in os.environ or "LD_PRELOAD" in os.environ
    return platform.libc_ver()[0] == "glibc" and not chosen and not trains_on_gpu()


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
