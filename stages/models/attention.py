"""What transformers' models run as "sdpa": the fused kernel, block masks by flex_attention, and on a CPU runs of trees,
and a backward of matrix products, where the fused kernel's own takes longer."""

# Annotations are not postponed here: torch reads an operator's schema from them.

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from stages.layout import TILE, round_up
from stages.runs import Part, blocks

Mask = Tensor | BlockMask  # additive [rows, 1, length, width], or boolean, or blocks
Queries = Float[Tensor, "rows heads length size"]
Keys = Float[Tensor, "rows shared width size"]
Values = Float[Tensor, "rows shared width value_size"]


@torch.library.custom_op("treeline::attention", mutates_args=())
def _attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, runs: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """By the fused kernel: what is attended to, [rows, length, heads, size], and each query's normalizer. `bias` is
    added to the scores, hides what follows, and has no gradient; its columns are the row's cells, or with `runs`, the
    bounds of stages/runs.py, the keys of each query's run. An operator of its own, so that a compiled layer stays in
    one piece."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (each if groups == 1 else each.repeat_interleave(groups, 1) for each in (key, value))
    found, normalizers = [], []
    for part in blocks(query.shape[2], _listed(runs)):
        queries = part.end - part.start
        tiles = slice(part.start, part.start + round_up(queries, TILE))  # the last ones' results are not used
        output, normalizer = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query[:, :, tiles], part.seen(keys), part.seen(values),
            attn_mask=bias[:, :, tiles, : part.width], scale=scaling,
        )  # fmt: skip
        found.append(output[:, :, :queries].transpose(1, 2))
        normalizers.append(normalizer[:, :, :queries])
    return torch.cat(found, 1).contiguous(), torch.cat(normalizers, 2)


def _listed(runs: Tensor | None) -> list[int] | None:
    return None if runs is None else runs.tolist()


@_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, runs: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    rows, heads, length, _ = query.shape
    wide = torch.promote_types(query.dtype, torch.float32)
    return value.new_empty(rows, length, heads, value.shape[-1]), query.new_empty(
        rows, heads, length, dtype=wide
    )


@torch.library.custom_op("treeline::attention_backward", mutates_args=())
def _attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    runs: Tensor | None,
    normalizer: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """By five products, which hold a row's weights and their gradients in the precision of the products."""
    found = [each.new_empty(each.shape) for each in (query, key, value)]
    saved = (query, key, value, bias, normalizer, gradient.transpose(1, 2))
    parts = [*blocks(query.shape[2], _listed(runs))]
    for row in zip(*saved, *found, strict=True):
        _row_backward(*row, parts=parts, scaling=scaling)
    return found[0], found[1], found[2]


@_attention_backward.register_fake
def _(_gradient: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (each.new_empty(each.shape) for each in inputs[:3])
    return query, key, value


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *saved, ctx.scaling = inputs
    ctx.save_for_backward(*saved, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, gradient: Tensor, _normalizer: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_attention_backward(gradient, *ctx.saved_tensors, ctx.scaling), None, None, None


_attention.register_autograd(_differentiate, setup_context=_save)


def _row_backward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, normalizer: Tensor, output_gradient: Tensor,
    query_gradient: Tensor, key_gradient: Tensor, value_gradient: Tensor, *, parts: list[Part],
    scaling: float,
) -> None:  # fmt: skip
    """Of one row: [heads, length, size], keys and values [shared, length, size]."""
    wide = torch.promote_types(key.dtype, torch.float32)
    sums = [torch.zeros_like(each, dtype=wide) for each in (key, value)]
    for part in parts:
        queries = slice(part.start, part.end)
        query_gradient[:, queries], *found = _block_backward(
            query[:, queries], normalizer[:, queries], output_gradient[:, queries], part.seen(key),
            part.seen(value), bias[:, queries, : part.width], scaling,
        )  # fmt: skip
        for total, each in zip(sums, found, strict=True):
            part.add_to(total, each)
    key_gradient.copy_(sums[0])
    value_gradient.copy_(sums[1])


def _block_backward(
    query: Tensor, normalizer: Tensor, output_gradient: Tensor, key: Tensor, value: Tensor, bias: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the queries, keys and values. Heads that share a key (grouped-query attention, Ainslie et al. 2023)
    are that key's queries."""
    grouped, outward = (each.reshape(len(key), -1, each.shape[-1]) for each in (query, output_gradient))
    bias = bias.expand(len(query) // len(key), *bias.shape[1:]).flatten(0, 1)
    weights = _log_weights(grouped, key, bias, normalizer.reshape(len(key), -1, 1), scaling).exp_()
    weight_gradient = torch.bmm(outward, value.transpose(1, 2))
    score_gradient = torch._softmax_backward_data(weight_gradient, weights, -1, weights.dtype).mul_(scaling)
    return (
        torch.bmm(score_gradient, key).view(query.shape),
        torch.bmm(score_gradient.transpose(1, 2), grouped),
        torch.bmm(weights.transpose(1, 2), outward),
    )


def _log_weights(query: Tensor, key: Tensor, bias: Tensor, normalizer: Tensor, scaling: float) -> Tensor:
    """Scores less their normalizer, which is subtracted within the product, where sums are in float32: rounded to bf16
    afterwards, weights that matter lose nothing. Rounded before, large scores would.

    The normalizer enters as three more columns of the queries, what one rounds off in the next.
    """
    columns, rest = [query], normalizer / -scaling
    for _ in range(3):
        columns.append(rest.to(query.dtype))
        rest = rest - columns[-1]
    ones = key.new_ones(1, 1, 1).expand(*key.shape[:2], 3)
    return torch.baddbmm(
        bias, torch.cat(columns, -1), torch.cat([key, ones], -1).transpose(1, 2), alpha=scaling
    )


def attention(
    module: nn.Module, query: Queries, key: Keys, value: Values, attention_mask: Mask | None,
    runs: Tensor | None = None, **options: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """transformers' sdpa, which takes a BlockMask too, and on a CPU has a backward of its own and takes a row's `runs`.
    The arguments alone decide: a layer that gradient checkpointing computes again, in the backward pass, goes the same
    way again. Raises ValueError where a layer with runs needs more than a mask."""
    if isinstance(attention_mask, BlockMask):
        if torch.is_autocast_enabled(query.device.type):  # it casts for sdpa, and not for flex
            dtype = torch.get_autocast_dtype(query.device.type)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return flex_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is None or not _by_products(module, query, key, value, attention_mask, runs, options):
        if runs is not None:
            raise ValueError(f"{type(module).__name__} cannot be computed in runs")
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scaling = options.get("scaling") or query.shape[-1] ** -0.5
    query, key, value = (each.to(attention_mask.dtype) for each in (query, key, value))
    mask = attention_mask.expand(len(query), -1, -1, -1)
    return _attention(query, key, value, mask, runs, scaling)[0], None


AttentionInterface.register("sdpa", attention)


def _by_products(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, runs: Tensor | None,
    options: dict[str, Any],
) -> bool:  # fmt: skip
    """Where a CPU learns from whole rows, or computes runs, whose cells see nothing that follows (in an encoder they
    do), and there is nothing but one additive mask for all heads."""
    learns = query.requires_grad and torch.is_grad_enabled()
    whole = (
        key.shape == value.shape and key.shape[2] == query.shape[2] and getattr(module, "is_causal", False)
    )
    shared = mask.is_floating_point() and not mask.requires_grad and mask.shape[1] == 1
    other = options.get("dropout") or any(
        options.get(name) is not None for name in ("position_bias", "softcap")
    )
    wanted = query.device.type == "cpu" and (learns or runs is not None)
    return wanted and whole and shared and not other
