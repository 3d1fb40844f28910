"""Long packed rows on CUDA: flex_attention (Dong et al. 2024), which skips every block of a row that nobody may see.

sdpa takes a tree's mask as a dense one and computes all scores of a row, the square of its length; of a row of many
trees almost all are masked. The kernels are compiled at first use; they are made for GPUs, and sdpa serves the rest.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers.integrations.flex_attention import flex_attention_forward

from stages.models.compiled import allow_variants, uncompiled
from stages.packing import Packed, pack
from stages.trees import Node, Tree

BLOCKS_PAY = (
    1024  # tokens in a row: 8 blocks of 128; in a shorter one there is little to skip. Not measured yet
)
LONG_ROW = 4096  # tokens that short trees share: a longer one would leave hardly less padding

log = logging.getLogger(__name__)


def block_mask(packed: Packed, window: int | None = None) -> BlockMask:
    """`packed.attention_mask(window)` as the blocks of 128 x 128 that are seen in part or whole."""
    rows, length = packed.input_ids.shape
    create = torch.compile(create_block_mask)  # otherwise it would lay out the whole mask on the way
    return create(
        lambda row, head, query, key: packed.visible(row, query, key, window),
        rows, None, length, length, device=packed.input_ids.device,
    )  # fmt: skip


@contextmanager
def eager_flex() -> Iterator[None]:
    """flex_attention by torch's own operations, for a row or two. On the CPU its forward only."""
    with uncompiled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        yield


@cache
def flex_runs(device: torch.device, size: int) -> bool:
    """Find out, by trying once, whether this GPU's kernels for heads of `size` compile and agree with sdpa."""
    allow_variants()  # of its kernels: with gradient and without, each precision, one row and several, each window
    try:
        for dtype in (torch.float32, torch.bfloat16):
            _compare(device, size, dtype)
    except Exception as error:  # of a compiler, a driver or an assertion: any of them rules flex out
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("no flex_attention: long rows take dense masks (same result, slower): %s", reason)
        return False
    return True


def _compare(device: torch.device, size: int, dtype: torch.dtype) -> None:
    """Forward and backward over one row of several blocks. Raises AssertionError where the two differ."""
    nodes = [Node([0] * length, [True] * length) for length in (5, 200, 300)]
    packed = pack([Tree(nodes[0], nodes), Tree(nodes[1], nodes)], device, LONG_ROW)
    generator = torch.Generator(device).manual_seed(0)  # the run's own randomness stays as it is
    shape = (4, 1, 2, packed.input_ids.shape[1], size)
    *inputs, weights = torch.randn(shape, generator=generator, device=device, dtype=dtype).unbind()
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        query, key, value = inputs = [tensor.clone().requires_grad_() for tensor in inputs]
        dense, blocks = packed.attention_mask(), block_mask(packed)
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=dense)
        found = flex_attention_forward(nn.Module(), query, key, value, blocks)[0].transpose(1, 2)
        ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (found, expected))
    torch.testing.assert_close((found, *ours), (expected, *theirs), rtol=2e-2, atol=5e-2)
