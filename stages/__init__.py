"""Treeline: a reproducible LLM post-training pipeline, one module per DVC stage."""
