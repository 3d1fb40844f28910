"""Models from disk or hub to memory and back: base weights, adapters, tokenizer beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from stages.models.block import keep_less
from stages.models.compiled import compile_layers
from stages.models.hidden import backbone
from stages.models.liger import apply_liger
from stages.models.linear import LINEAR
from stages.models.probe import probe

ADAPTER = "adapter_config.json"


def load_model(
    path: str | Path, kind: Any = AutoModelForCausalLM, *, revision: str | None = None, **options: Any
) -> PreTrainedModel:
    """Load in float32, with dropout off. A folder that holds an adapter is loaded onto its base and merged.

    `path` is a folder or a hub id; `kind` a transformers auto class; `options` go to its `from_pretrained`.
    """
    if (Path(path) / ADAPTER).exists():
        adapter = PeftConfig.from_pretrained(str(path))
        base = base_of(Path(path), adapter)
        model = load_model(base, kind, revision=adapter.revision, **options)
        adapter.task_type = (
            None  # a language model's adapter goes onto a classifier, when a reward model begins
        )
        model = PeftModel.from_pretrained(model, str(path), config=adapter).merge_and_unload()  # type: ignore[operator]
        model.requires_grad_(True)  # peft has frozen the base
    else:
        model = kind.from_pretrained(path, revision=revision or "main", dtype=torch.float32, **options)
    disable_dropout(model)
    keep_less(model)
    probe(model)
    return model


def base_of(folder: Path, adapter: PeftConfig) -> str:
    """An adapter names its base relative to its own folder, so that a project can be moved; a hub id stays one."""
    name = str(adapter.base_model_name_or_path)
    local = folder / name
    return str(local.resolve()) if local.exists() else name


def disable_dropout(model: nn.Module) -> None:
    """Dropout makes a policy differ from its own samples, and a reference or reward model noisy."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(
                    module, name, 0.0
                )  # handed to a function as a number: attention's (Llama), a layer's (OPT)


def narrow_products(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the linear layers of a frozen transformer in `dtype`, that of the autocast it runs under: each pass would
    round them just so. Half the memory; embeddings, norms and heads stay as they are."""
    for layer in backbone(model).modules():
        if type(layer) in LINEAR:
            layer.to(dtype)


def add_adapter(model: PreTrainedModel, settings: DictConfig, head: str | None = None) -> nn.Module:
    """Make `model` what is trained: with Liger's kernels if `settings.liger`, in LoRA adapters (Hu et al. 2021) if
    `settings.lora`, compiled if `settings.torch_compile`; `head` is trained and saved whole.

    A reference that is copied from it has the same kernels, and so the same numbers.
    """
    if settings.liger:
        apply_liger(model)
    adapted = _with_lora(model, settings, head) if settings.lora else model
    if settings.torch_compile:
        compile_layers(adapted)
    return adapted


def _with_lora(model: PreTrainedModel, settings: DictConfig, head: str | None) -> nn.Module:
    targets = settings.lora_target_modules
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        modules_to_save=[head] if head else None,
        exclude_modules=[head] if head else None,
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    for layer in adapted.modules():  # it would widen each input to float32, for autocast to narrow it again
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
    return adapted


def save_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    merge_adapter: bool,
    base: str | Path,
    revision: str | None = None,
) -> None:
    """Write what `from_pretrained` needs, as safetensors. An adapter is merged, or kept with a pointer to `base`, a
    folder or a hub id with its `revision`."""
    if isinstance(model, PeftModel) and not merge_adapter:
        adapter = model.peft_config["default"]
        adapter.revision = revision
        adapter.base_model_name_or_path = str(base)  # peft looks there whether the vocabulary has grown
        model.save_pretrained(str(folder), selected_adapters=["default"])
        model.config.save_pretrained(str(folder))  # a reward model's normalisation is in it
        if Path(base).exists():
            adapter.base_model_name_or_path = os.path.relpath(base, folder)
            adapter.save_pretrained(str(folder))
    else:
        whole = model.merge_and_unload(adapter_names=["default"]) if isinstance(model, PeftModel) else model
        whole.save_pretrained(str(folder))  # type: ignore[operator]
    tokenizer.save_pretrained(str(folder))
