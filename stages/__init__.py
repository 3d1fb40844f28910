"""Treeline: a reproducible LLM post-training pipeline, one module per DVC stage."""

import os

from stages.heap import restart_with_mimalloc

# cuBLAS reads it when a GPU is first used: with this, equal products have equal bits
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
restart_with_mimalloc()
