"""What can be known to be wrong with a model without its weights: they are read as far as their headers."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from transformers import AutoModelForCausalLM

from stages.models.adapters import ADAPTER, base_of, read_adapter, with_lora
from stages.models.weights import read_model


def check_model(settings: DictConfig, path: str | Path, revision: str | None = None) -> None:
    """Load the model in `path`, a folder or a hub id, onto no device, and put on the adapters that the `model` section
    asks for. Raises UserError where the weights are not those that config.json asks for, or the adapters do not fit."""
    while (Path(path) / ADAPTER).exists():
        adapter, _ = read_adapter(Path(path))
        path, revision = base_of(Path(path), adapter), adapter.revision
    model = read_model(
        path, AutoModelForCausalLM, revision=revision, trust_remote_code=settings.trust_remote_code,
        device_map="meta",
    )  # fmt: skip
    if settings.lora:
        with_lora(model, settings)
