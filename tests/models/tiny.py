"""Models of a few thousand weights, made in memory, and trees to feed them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from stages.trees import Node, Tree

EOS = 2
SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": EOS,
    "pad_token_id": EOS,
}  # fmt: skip


def tiny_llama(seed: int = 0, **options: Any) -> PreTrainedModel:
    """Weights large enough that its tokens are far from equally likely."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**(SHAPE | {"initializer_range": 0.2} | options))).eval()


def tree(prompt: Sequence[int], *completions: Sequence[int]) -> Tree:
    """Every completion token is trained on."""
    nodes = [Node(list(ids), [True] * len(ids)) for ids in completions]
    return Tree(Node(list(prompt), [False] * len(prompt)), nodes)


def lora(*, on: bool = True, **options: Any) -> DictConfig:
    """The model section's settings for adapters."""
    settings = {
        "trust_remote_code": False, "liger": False, "torch_compile": False,
        "lora": on, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0,
        "lora_target_modules": "all-linear",
    }  # fmt: skip
    return OmegaConf.create(settings | options)


def shake(model: torch.nn.Module, scale: float = 0.1, seed: int = 5) -> None:
    """Move every weight that is trained, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
