"""The buffers of keys and values: what is written, moved, grown and narrowed."""

from __future__ import annotations

import pytest
import torch

from stages.rollout.cache import KeyValueCache
from stages.rollout.shared_prompts import SharedPromptCache


def filled(lengths: list[int], capacity: int) -> KeyValueCache:
    """One layer, whose slot j of row i holds 10 i + j + 1, or 0 where the row has no token j."""
    cache = KeyValueCache(torch.tensor(lengths), capacity)
    slots = torch.arange(capacity)
    numbers = 10 * torch.arange(len(lengths))[:, None] + slots + 1.0
    numbers[slots >= cache.lengths[:, None]] = 0
    cache.keys = [numbers[:, None, :, None].expand(-1, 2, -1, 3).clone()]
    cache.values = [-cache.keys[0]]
    return cache


def stored(cache: KeyValueCache) -> list[list[float]]:
    """By row and slot; the same for all heads, and for values with a minus."""
    keys, values = cache.keys[0], cache.values[0]
    assert torch.equal(keys, -values) and keys.shape[2] == cache.capacity
    assert torch.equal(keys, keys[:, :1, :, :1].expand_as(keys))
    return keys[:, 0, :, 0].tolist()


def test_rows_that_go_are_replaced_by_the_last_ones():
    cache = KeyValueCache(torch.tensor([1, 2, 3, 1, 2]), 4)
    keys = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 2, 1, 8)
    cache.update(keys, -keys, 0)
    assert cache.shrink([1, 3, 4]) == [3, 1, 4]
    assert cache.lengths.tolist() == [1, 2, 2]
    assert cache.keys[0].shape == (3, 2, 4, 8)
    for row, (owner, slot) in enumerate([(3, 1), (1, 2), (4, 2)]):
        assert cache.keys[0][row, :, slot].unique().tolist() == [owner]
        assert cache.values[0][row, :, slot].unique().tolist() == [-owner]


def test_buffers_grow_with_the_longest_row_and_shrink_with_it():
    cache = filled([2, 5], 5)
    cache.reserve(0)
    assert cache.capacity == 5
    cache.reserve(1)
    assert stored(cache) == [[1, 2, 0, 0, 0, 0, 0, 0], [11, 12, 13, 14, 15, 0, 0, 0]]
    cache.shrink([0])
    assert stored(cache) == [[1, 2, 0, 0]]
    cache.reserve(2)
    assert cache.capacity == 4


def test_static_buffers_stay():
    cache = filled([2, 5], 5)
    cache.static = True
    cache.reserve(9)
    cache.shrink([0])
    assert stored(cache) == [[1, 2, 0, 0, 0]]


@pytest.mark.parametrize("first", [True, False])
def test_rows_of_other_capacity_are_appended(first: bool):
    narrow, wide = filled([0], 0), filled([3], 4)
    cache, other = (narrow, wide) if first else (wide, narrow)
    cache.extend(other)
    rows = [[0.0, 0, 0, 0], [1.0, 2, 3, 0]]
    assert stored(cache) == (rows if first else rows[::-1])
    assert cache.lengths.tolist() == ([0, 3] if first else [3, 0])


def test_layers_may_have_different_numbers_of_heads():
    """As Gemma 4's have."""
    cache = KeyValueCache(torch.tensor([1, 2]), 4)
    for layer, heads in enumerate((2, 1)):
        new = torch.arange(1.0, 3).view(2, 1, 1, 1).expand(2, heads, 1, 3)
        keys, _ = cache.update(new, new, layer)
        assert keys.shape == (2, heads, 4, 3)
        assert keys[..., 0].tolist() == [[[0, 1, 0, 0]] * heads, [[0, 0, 2, 0]] * heads]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, [[1, 1, 0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0]]),
        (3, [[0, 1, 0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 1, 0, 0, 0]]),
        (2, [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 1, 0, 0, 0]]),
    ],
)
def test_a_row_sees_its_prompt_and_itself_within_the_window(window: int | None, expected: list[list[int]]):
    """Prompts of 2 and 3 tokens, behind which one row has stored 1 token and one none."""
    cache = SharedPromptCache(filled([2, 3], 4), 1)
    cache.own.lengths = torch.tensor([1, 0])
    cache.reserve(1)
    assert cache.visible(1, window)[:, 0, 0].int().tolist() == expected


def test_prompts_that_are_gone_take_their_width_with_them():
    cache = SharedPromptCache(filled([7, 3], 8), 2)
    cache.shrink([3])
    assert stored(cache.prompts) == [[11, 12, 13, 0]]
