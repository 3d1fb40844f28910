"""Models from disk or hub to memory and back: base weights, adapters, tokenizer beside them."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from stages.config.compose import ROOT
from stages.data.sealed import check_sealed, seal_model
from stages.models.adapters import ADAPTER, base_of, merged, read_adapter, with_lora
from stages.models.block import keep_less
from stages.models.compiled import compile_layers
from stages.models.hidden import backbone
from stages.models.liger import apply_liger
from stages.models.linear import LINEAR
from stages.models.probe import probe
from stages.models.weights import read_model

log = logging.getLogger(__name__)


def load_model(
    path: str | Path,
    kind: Any = AutoModelForCausalLM,
    *,
    revision: str | None = None,
    fresh: str | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load in float32, with dropout off. A folder that holds an adapter is loaded onto its base and merged.

    `path` is a folder or a hub id; `kind` a transformers auto class; `fresh` the name of a head that is to be new;
    `options` go to `from_pretrained`. Raises UserError where what is there is not a whole, causal model, as it was
    saved.
    """
    model = _read(path, kind, revision=revision, fresh=fresh, **options)
    disable_dropout(model)
    keep_less(model)
    probe(model)
    _tell_router_loss(model)
    return model


def _read(
    path: str | Path, kind: Any, *, revision: str | None, fresh: str | None, **options: Any
) -> PreTrainedModel:
    folder = Path(path)
    if not (folder / ADAPTER).exists():
        if folder.is_dir():
            check_sealed(folder)
        return read_model(path, kind, revision=revision, fresh=fresh, **options)
    adapter, weights = read_adapter(folder)
    # A classifier's adapter holds its head whole; whatever head its base has goes.
    own = adapter.modules_to_save[0] if adapter.task_type == "SEQ_CLS" else None  # type: ignore[attr-defined]
    model = _read(base_of(folder, adapter), kind, revision=adapter.revision, fresh=own or fresh, **options)
    if fresh and not own:  # with the old head goes what was learnt in it
        kept = f"base_model.model.{model.base_model_prefix}."
        weights = {key: weight for key, weight in weights.items() if key.startswith(kept)}
    return merged(model, folder, adapter, weights) if weights else model


def _tell_router_loss(model: PreTrainedModel) -> None:
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        log.warning(
            "%s: the router's balancing loss (router_aux_loss_coef) is not added", type(model).__name__
        )


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
    adapted = with_lora(model, settings, head) if settings.lora else model
    if settings.torch_compile:
        compile_layers(adapted)
    return adapted


def save_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    merge_adapter: bool,
    base: str | Path,
    revision: str | None = None,
    stop_token_ids: Sequence[int] = (),
) -> None:
    """Write what `from_pretrained` needs, as safetensors. An adapter is merged, or kept with a pointer to `base`, a
    folder or a hub id with its `revision`. Generation is to end at any of `stop_token_ids`, if there are some."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if type(inner).__name__.endswith("ForSequenceClassification"):
        tokenizer = _pad_apart(inner, tokenizer, stop_token_ids)
    if isinstance(model, PeftModel) and not merge_adapter:
        _save_adapter(model, folder, base, revision)
        inner.config.save_pretrained(str(folder))  # a reward model's normalisation is in it
        if inner.can_generate():
            inner.generation_config.save_pretrained(str(folder))
    else:
        whole = model.merge_and_unload(adapter_names=["default"]) if isinstance(model, PeftModel) else model
        whole.save_pretrained(str(folder))  # type: ignore[operator]
    tokenizer.save_pretrained(str(folder))
    seal_model(folder, stop_token_ids)


def _save_adapter(model: PeftModel, folder: Path, base: str | Path, revision: str | None) -> None:
    adapter = model.peft_config["default"]
    adapter.revision = revision
    adapter.base_model_name_or_path = str(base)  # peft looks there whether the vocabulary has grown
    model.save_pretrained(str(folder), selected_adapters=["default"])
    # A base outside the project stays where it is when the project moves, or is copied by `dvc exp run`.
    abroad = folder.resolve().is_relative_to(ROOT) and not Path(base).resolve().is_relative_to(ROOT)
    if Path(base).exists() and not abroad:
        adapter.base_model_name_or_path = os.path.relpath(base, folder)
        adapter.save_pretrained(str(folder))


def _pad_apart(
    model: Any, tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int]
) -> PreTrainedTokenizerBase:
    """The tokenizer with a padding token that ends no completion, which is the model's, too: transformers' classifiers
    take the last token that is not padding, and we take the last of the completion."""
    stops = [tokenizer.eos_token_id, *stop_token_ids]
    beside = [
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.bos_token_id,
        *tokenizer.all_special_ids,
    ]
    size = model.get_input_embeddings().weight.shape[0]
    apart = next(
        (token for token in beside if isinstance(token, int) and token not in stops and token < size), None
    )
    model.config.pad_token_id = apart  # without one, transformers takes one row at a time
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None if apart is None else tokenizer.convert_ids_to_tokens(apart)
    return tokenizer
