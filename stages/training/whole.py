"""Folders that are there whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from stages.disk import write_out, writing
from stages.seal import seal
from stages.workspace import CHECKPOINT, continuation

PARTIAL = "partial-"


def write_whole(path: Path, needed: int, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a folder beside `path`, seal it, rename it. `needed`: about how many bytes. Raises
    Unwritable where the disk is full."""
    partial = path.with_name(f"{PARTIAL}{path.name.removeprefix(CHECKPOINT)}")
    try:
        with writing(partial, needed, lambda: continuation(path.parent)):
            partial.mkdir(parents=True)
            fill(partial)
            seal(partial)
            write_out(*partial.iterdir(), partial)
            partial.rename(path)
            write_out(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
