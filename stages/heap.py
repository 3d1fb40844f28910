"""Main memory for tensors: mimalloc (Leijen et al. 2019) in the place of the C library's allocator.

glibc hands the memory of a large tensor back at once, for the kernel to clear anew: up to a third of a training step.
Told to keep it, it finds no room where a tensor of the same size was, and takes up to twice what lives. mimalloc does
neither. It must be there when a process starts, so this imports nothing of torch (see stages/__init__.py).
"""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

LIBRARY = "cmeel.prefix/lib/libmimalloc.so"
# What is freed stays with the process, in practice until give_back_freed_memory(): an hour, in milliseconds.
KEEP = {"MIMALLOC_PURGE_DELAY": "3600000"}
# Whoever sets one of these has an allocator of their own in mind, or it is the second start.
CHOICES = ("LD_PRELOAD", "GLIBC_TUNABLES", *KEEP)
GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))


def mimalloc_environment() -> dict[str, str]:
    """What a process is to be started with, beside what it has; empty where tensors may be on a GPU, and where the
    library cannot be loaded."""
    if _may_use_gpu():
        return {}
    try:
        library = Path(str(distribution("cmeel-mimalloc").locate_file(LIBRARY)))
    except PackageNotFoundError:
        return {}
    # the loader takes spaces and colons for the ends of names
    sound = library.exists() and not set(" :") & set(str(library))
    return {"LD_PRELOAD": str(library), **KEEP} if sound else {}


def restart_with_mimalloc() -> None:
    """Begin this program again with it, in the same process: some 50 ms.

    Nothing happens where the user chose an allocator, or where tensors may be on a GPU.
    """
    chosen = any(name in os.environ for name in CHOICES)
    if not chosen and (wanted := mimalloc_environment()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _may_use_gpu() -> bool:
    """As far as can be told without torch: one is there, and Accelerate has not been told to leave it."""
    return any(path.exists() for path in GPUS) and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"


def give_back_freed_memory() -> None:
    """Now and then: blocks of many lengths split the heap, and what is kept would grow slowly."""
    collect = getattr(ctypes.CDLL(None), "mi_collect", None)
    if collect:
        collect(True)
