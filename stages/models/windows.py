"""A model whose windows are a few tokens wide: what a family does beyond them is seen in a short text."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig

from stages.models.hidden import backbone, without_adapters

WINDOW = 4  # tokens
# sliding_window (most), window_size (GPT-Neo), attention_window_size (RecurrentGemma), attention_chunk_size (Llama 4),
# local_attention (ModernBERT), keep_window_size (Doge), index_topk (DeepSeek 3.2)
WINDOWS = re.compile(r"window|attention_chunk|local_attention|index_topk")


def with_narrow_windows(model: nn.Module) -> nn.Module | None:
    """Another model of the same class around the very weights of `model`, without adapters, its windows WINDOW tokens
    wide. None where its configuration has none that is wider and that a text may reach beyond.

    A window may be read from the configuration at each pass or have been built into a buffer, so the model is built
    again; its weights are not copied. Raises ValueError where another window would need other weights.
    """
    inner = without_adapters(model)
    config = copy.deepcopy(inner.config)
    if not _narrow(config, _positions(config.get_text_config())):
        return None
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        twin = type(inner)(config)
    _share_weights(inner, twin)
    body: Any = backbone(twin)
    body.own_head = getattr(backbone(inner), "own_head", False)
    return twin.to(inner.device).eval()


def _positions(config: PreTrainedConfig) -> float | int:
    """No text is longer: see stages/data/positions.py."""
    scaled = (getattr(config, "rope_parameters", None) or {}).get("factor")
    return math.inf if scaled else getattr(config, "max_position_embeddings", None) or math.inf


def _narrow(node: Any, positions: float | int) -> int:
    """How many windows in `node`, a configuration or what one holds, were narrowed; those of all `positions` are not
    windows."""
    if isinstance(node, list):
        return sum(_narrow(each, positions) for each in node)
    if isinstance(node, PreTrainedConfig):
        node = vars(node)
    if not isinstance(node, dict):
        return 0
    found = 0
    for key, value in node.items():
        known = WINDOWS.search(str(key)) and "layers" not in key
        if known and isinstance(value, int) and WINDOW < value < positions:
            node[key] = WINDOW
            found += 1
        else:
            found += _narrow(value, positions)
    return found


def _share_weights(source: nn.Module, twin: nn.Module) -> None:
    weights = {_plain(name): weight for name, weight in source.named_parameters(remove_duplicate=False)}
    for name, parameter in list(twin.named_parameters(remove_duplicate=False)):
        weight = weights.get(name)
        if weight is None or weight.shape != parameter.shape:
            raise ValueError(f"{name} is another weight where windows are narrower")
        parent, _, last = name.rpartition(".")
        setattr(twin.get_submodule(parent), last, weight)


def _plain(name: str) -> str:
    """A weight's name before peft wrapped its layer."""
    return re.sub(r"(base_layer|original_module)\.", "", name)
