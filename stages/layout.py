"""How sizes are shared out: over the rows of one pass, and over passes under a budget."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence

SHORT_ROW = 128  # tokens: in rows that are not longer, attention is too little for padding to pay
TILE = 16
ENOUGH = 1.01  # times the least that can be: the search ends


def whole_tiles(length: int) -> int:
    """A row's length with its padding: on a CPU with AMX, in bf16, attention over 314 tokens takes 3.7 times as long as
    over 320."""
    return length if length <= SHORT_ROW else round_up(length, TILE)


def round_up(size: int, unit: int) -> int:
    """The least multiple of `unit` that holds `size`."""
    return -(-size // unit) * unit


def layout(sizes: Sequence[int], shared: int, row_length: int) -> list[list[int]]:
    """Which indices share a row, where each row begins with `shared` cells and all are as long as the longest: in as
    many rows as leave the least to compute.

    Cells beyond `row_length` cost more, for attention grows with a row's square. It is taken to cost a third of all
    else at `row_length`, and not counted below.
    """
    total, largest = sum(sizes), max(sizes)
    best: list[list[int]] = []
    least = math.inf
    for count in range(1, len(sizes) + 1):
        if ENOUGH * (count * shared + max(total, count * largest)) >= least:  # and so with every larger count
            break
        alike = shared + max(-(-total // count), largest)  # what the longest row has at best
        if _cost(count, alike, row_length) >= least:
            continue
        rows = balanced(sizes, count)
        cost = _cost(count, shared + max(sum(sizes[index] for index in row) for row in rows), row_length)
        if cost < least:
            best, least = rows, cost
    return best


def _cost(count: int, longest: int, row_length: int) -> float:
    length = whole_tiles(longest)
    return count * length * (1 + max(0, length - row_length) / (3 * row_length))


def balanced(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Indices in `count` groups of about equal sums: the largest first, each into the group that has least (Graham
    1969)."""
    groups: list[list[int]] = [[] for _ in range(count)]
    sums = [(0, group) for group in range(count)]
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        total, group = heapq.heappop(sums)
        groups[group].append(index)
        heapq.heappush(sums, (total + sizes[index], group))
    return groups


def split(sizes: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group indices, like sizes together, so that each group's sizes sum to at most `max_tokens`; one that is larger
    stands alone. In as few groups as that order allows, and with the smallest largest sum."""
    order = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    fewest = len(_filled(sizes, order, max_tokens))
    least = bisect_left(
        range(max_tokens), True, key=lambda budget: len(_filled(sizes, order, budget)) == fewest
    )
    return _filled(sizes, order, least)


def _filled(sizes: Sequence[int], order: Sequence[int], budget: int) -> list[list[int]]:
    """Groups in that order, each begun where the next size would be too much for the last."""
    groups: list[list[int]] = []
    total = 0
    for index in order:
        if not groups or total + sizes[index] > budget:
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += sizes[index]
    return groups
