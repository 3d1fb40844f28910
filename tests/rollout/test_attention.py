"""A decode step's attention on the CPU, against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stages.rollout.attention import grouped_attention, scaled_scores


def test_scores_are_scaled_and_large_ones_not_rounded():
    """257 has nine bits, of which bf16 keeps eight; a scaled score of 64 is the largest that may be rounded."""
    taken: list[torch.dtype] = []

    def products(dtype: torch.dtype) -> torch.Tensor:
        taken.append(dtype)
        return torch.tensor([257.0, 1.0]).view(1, 1, 1, 2).to(dtype)

    assert scaled_scores(products, torch.bfloat16, 0.25).flatten().tolist() == [64.0, 0.25]
    assert scaled_scores(products, torch.bfloat16, 0.5).flatten().tolist() == [128.5, 0.5]
    assert scaled_scores(products, torch.float32, 0.5).flatten().tolist() == [128.5, 0.5]
    assert taken == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 8e-3)]
)
@pytest.mark.parametrize("size", [1.0, 12.0])  # scaled scores of about 1, and of 144
def test_it_is_that_of_torch(dtype: torch.dtype, close: float, size: float):
    """With heads of the keys repeated, in the same precision; the queries and keys are those of `dtype` in both."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, heads, new, 8) for heads, new in ((4, 1), (2, 6), (2, 6)))
    query, key, value = (each.to(dtype) for each in (size * query, size * key, value))
    mask = torch.zeros(3, 1, 1, 6, dtype=dtype)
    mask[0, ..., 4:] = -torch.inf
    found, _ = grouped_attention(None, query, key, value, mask)
    wide = [each.double() for each in (query, *(each.repeat_interleave(2, 1) for each in (key, value)))]
    expected = F.scaled_dot_product_attention(*wide, attn_mask=mask.double()).transpose(1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=close, atol=close * float(value.abs().max()))
