"""What a stage asks of the machine that it runs on."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


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
    """Where tensors live in main memory: what one frees, the next one takes, and the system is asked for no more.

    glibc hands the memory of a large tensor back at once, and the kernel clears each page of it anew when the next
    tensor touches it: up to a quarter of a training step. Other C libraries are left as they are, and so is one that
    GLIBC_TUNABLES or a preloaded allocator already speaks for.
    """
    chosen = "GLIBC_TUNABLES" in os.environ or "LD_PRELOAD" in os.environ
    if platform.libc_ver()[0] == "glibc" and not chosen and not torch.cuda.is_available():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
