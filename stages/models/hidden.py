"""Hidden states of packed trees: the one place that calls a transformers backbone for training and scoring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from stages.models.attention import Mask
from stages.models.compiled import uncompiled
from stages.models.flex import BLOCKS_PAY, LONG_ROW, block_mask, flex_runs
from stages.packing import PADDING, ROW_LENGTH, SHARED, Packed, pack
from stages.trees import Node, Tree


def backbone(model: Any) -> nn.Module:
    """The transformer under a language model's or classifier's head, adapters included."""
    inner = without_adapters(model)
    name = inner.base_model_prefix
    return getattr(inner, name if hasattr(inner, name) else "model")  # Llama 4's is that of a larger model


def without_adapters(model: Any) -> Any:
    """What transformers made: peft wraps the whole, and puts its adapters into the layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@torch.no_grad()
def state_size(model: nn.Module) -> int:
    """Of a hidden state that a head sees: whatever a family's configuration calls it, and wherever it is projected."""
    with uncompiled():
        return hidden_states(model, pack_for(model, [Tree(Node([], []), [Node([0], [True])])])).shape[-1]


def pack_for(model: nn.Module, trees: Sequence[Tree]) -> Packed:
    """`trees` on the device of `model`, in rows as long as its attention likes them."""
    return pack(trees, next(model.parameters()).device, row_length(model))


def row_length(model: nn.Module) -> int | None:
    """Tokens: long rows, which leave less padding, where blocks of them that see nothing cost nothing. None: one row,
    attended in runs."""
    bodies = [module for module in model.modules() if hasattr(module, "takes_trees")]
    if any(_skips_blocks(body) for body in bodies):
        return LONG_ROW
    return None if any(_takes_runs(body) for body in bodies) else ROW_LENGTH


def _takes_runs(body: Any) -> bool:
    """Only where probe() found that this family can, and where it is computed by our attention. With dropout in
    attention it cannot: load_model() turns that off."""
    ours = body.device.type == "cpu" and body.config._attn_implementation == "sdpa"
    return ours and getattr(body, "takes_runs", False)


def _skips_blocks(body: Any) -> bool:
    """Only where probe() found that this family can, and flex_runs() that this GPU can."""
    if not getattr(body, "takes_blocks", False) or body.device.type != "cuda":
        return False
    config = body.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return flex_runs(body.device, size)


def hidden_states(model: nn.Module, packed: Packed) -> Float[Tensor, "tokens hidden"]:
    """The last hidden state of every cell of `packed`, in flat order. Padding cells hold no meaning."""
    body = backbone(model)
    forward = _tree if getattr(body, "takes_trees", True) else padded_states  # set by probe()
    return forward(body, packed)


def _tree(body: nn.Module, packed: Packed) -> Tensor:
    sparse = packed.input_ids.shape[1] >= BLOCKS_PAY and _skips_blocks(body)
    return masked_states(body, packed, partial(block_mask, packed) if sparse else packed.attention_mask)


def masked_states(body: Any, packed: Packed, visible: Callable[[int | None], Mask]) -> Tensor:
    device = packed.input_ids.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else body.dtype
    outputs = body(
        input_ids=packed.input_ids, position_ids=packed.position_ids,
        attention_mask=attention_masks(body, visible, dtype), use_cache=False,
        **({} if packed.runs is None else {"runs": packed.runs}),
    )  # fmt: skip
    return outputs.last_hidden_state.flatten(0, 1)


def attention_masks(
    body: nn.Module, visible: Callable[[int | None], Mask], dtype: torch.dtype
) -> Mask | dict[str, Mask]:
    """The mask in the form that `body` takes. `visible` gives the boolean or block mask for a sliding window (None: no
    window); `dtype` is that of the queries.

    Models with several kinds of layer take one mask per kind. Raises ValueError for kinds that see something else
    (Llama 4's chunks).
    """
    config: Any = body.config.get_text_config()  # type: ignore[operator,union-attr]
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or [])
    if not kinds:
        return _as_taken(body, visible(window), dtype)
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(f"no mask of ours is for {', '.join(sorted(unknown))}")
    windows = {kind: window if kind == "sliding_attention" else None for kind in kinds}
    return {kind: _as_taken(body, visible(windows[kind]), dtype) for kind in kinds}


def _as_taken(body: Any, mask: Mask, dtype: torch.dtype) -> Mask:
    """What is added to the scores: sdpa would make it of a boolean mask in every layer anew."""
    if isinstance(mask, BlockMask):
        return mask
    eager = body.config._attn_implementation != "sdpa"  # Gemma 2, for its soft-capped scores
    lowest = torch.finfo(body.dtype).min if eager else -torch.inf
    return torch.zeros_like(mask, dtype=body.dtype if eager else dtype).masked_fill_(~mask, lowest)


def padded_states(body: nn.Module, packed: Packed) -> Tensor:
    """One right-padded row per completion, for models that take no mask of ours; same cells, same values."""
    rows, sources = unpack_rows(packed)
    length = max(len(row) for row in rows)
    device = packed.input_ids.device
    flat = torch.zeros(len(rows), length, dtype=torch.long, device=device)
    attention = torch.zeros_like(flat)
    for index, row in enumerate(rows):
        flat[index, : len(row)] = packed.input_ids.flatten()[row]
        attention[index, : len(row)] = 1
    states = body(input_ids=flat, attention_mask=attention, use_cache=False).last_hidden_state.flatten(0, 1)
    cell = torch.tensor([index * length + column for index, column in sources], device=device)
    return states.index_select(0, cell)


def unpack_rows(packed: Packed) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Flat positions of each completion's whole sequence, and for every cell the (row, column) that computes it."""
    prompts: dict[int, list[int]] = {}
    completions: dict[tuple[int, int], list[int]] = {}
    for line, (trees, branches) in enumerate(zip(packed.tree.tolist(), packed.branch.tolist(), strict=True)):
        first = line * len(trees)
        shared = [first + column for column, tree in enumerate(trees) if tree == SHARED]
        for cell, (tree, branch) in enumerate(zip(trees, branches, strict=True), first):
            if tree >= 0 and branch == PADDING:
                prompts.setdefault(tree, list(shared)).append(cell)
            elif tree >= 0:
                completions.setdefault((tree, branch), list(prompts.get(tree, shared))).append(cell)
    sources = [(0, 0)] * packed.tree.numel()
    for index, row in enumerate(completions.values()):
        for column, cell in enumerate(row):
            sources[cell] = (index, column)
    return list(completions.values()), sources
