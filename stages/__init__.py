"""Treeline: a reproducible LLM post-training pipeline, one module per DVC stage."""

import sys

from stages.guard import stop_with_parent
from stages.heap import restart_with_mimalloc

# What `python -m` has just begun with, before it imports anything else; nothing where a stage is only imported.
BEGUN = (
    next((name for name in sys.orig_argv if name.startswith("stages.")), "") if sys.argv[:1] == ["-m"] else ""
)

if BEGUN:
    restart_with_mimalloc()
if BEGUN.count(".") == 1:  # a stage, and not the sender of its metrics, which outlives it
    stop_with_parent()
