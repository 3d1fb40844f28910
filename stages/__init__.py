"""Treeline: a reproducible LLM post-training pipeline, one module per DVC stage."""

from stages.heap import restart_with_mimalloc

restart_with_mimalloc()
