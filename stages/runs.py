"""All trees of a pass in one row, whose attention is computed run by run: no padding but what fills the last run's
tile, and no scores between trees of different runs.

A run is some whole trees that stand side by side. Its queries see what all trees share, the row's first cells, and the
run itself. `bounds` says where runs end: [shared cells, end of the first run, of the second, ...]; the first run begins
with the shared cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stages.layout import TILE, round_up

RUN = 128  # tokens, at least: of less, attention costs as much in more calls
BLOCK = 256  # queries, about, that are taken at once: keys behind the last are left out, for none sees what follows it
SCORES = 2**19  # of a block, for one head: longer runs are taken in smaller blocks


class Part(NamedTuple):
    """Queries [start, end), which see no key but of [0, shared) and [first, stop)."""

    start: int
    end: int
    shared: int
    first: int
    stop: int

    @property
    def width(self) -> int:
        return self.shared + self.stop - self.first

    def seen(self, states: Tensor) -> Tensor:
        """Of `states` [..., length, size] the keys."""
        own = states[..., self.first : self.stop, :]
        return torch.cat([states[..., : self.shared, :], own], -2) if self.shared else own

    def add_to(self, total: Tensor, found: Tensor) -> None:
        """What is found for each of the keys, added where it stands in `total` [..., length, size]."""
        total[..., : self.shared, :] += found[..., : self.shared, :]
        total[..., self.first : self.stop, :] += found[..., self.shared :, :]


def run_bounds(sizes: Sequence[int], shared: int) -> list[int]:
    """Where runs end in a row of `shared` cells and then trees of `sizes`. The last is padded to whole tiles."""
    ends: list[int] = []
    first, end = 0, shared
    for size in sizes:
        end += size
        if end - first >= RUN:
            ends.append(end)
            first = end
    last = ends[-2] if len(ends) > 1 else 0
    return [shared, *ends[:-1], last + round_up(end - last, TILE)]


def run_parts(length: int, bounds: Sequence[int] | None) -> Iterator[Part]:
    """Every run of a row of `length` cells; without `bounds` the row is one. Keys are whole tiles, and so some of the
    shared ones may not be shared."""
    shared, *ends = bounds or (0, length)
    first = wide = 0
    for end in ends:
        yield Part(first, end, wide, first, _last_tile(first, end, length))
        first, wide = end, round_up(shared, TILE)


def _last_tile(first: int, end: int, length: int) -> int:
    """Where the whole tiles that begin at `first` and hold all up to `end` stop."""
    return min(first + round_up(end - first, TILE), length)


def blocks(length: int, bounds: Sequence[int] | None) -> Iterator[Part]:
    """Every run in blocks of about BLOCK queries, alike and in whole tiles."""
    for run in run_parts(length, bounds):
        queries = run.end - run.start
        most = max(TILE, min(BLOCK, SCORES // run.width))
        size = round_up(-(-queries // max(1, round(queries / most))), TILE)
        for start in range(run.start, run.end, size):
            end = min(start + size, run.end)
            yield run._replace(start=start, end=end, stop=_last_tile(run.first, end, length))
