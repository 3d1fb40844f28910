"""Runs of trees in one row: where they end, and what each query may see there, by hand."""

from __future__ import annotations

import pytest

from stages import runs
from stages.packing import PADDING, occupancy, pack
from stages.runs import Part, blocks, run_bounds, run_parts
from tests.models.tiny import tree


@pytest.mark.parametrize(
    ("sizes", "shared", "bounds"),
    [
        ([200, 150, 130], 0, [0, 200, 350, 494]),  # the last one's 130 cells are padded to 144
        ([200, 150, 128], 30, [30, 230, 380, 508]),
        ([200, 90, 50, 20], 0, [0, 200, 360]),  # 90 + 50 is enough; 20 alone is not, and joins them: 160
        ([60, 60], 9, [9, 144]),  # the shared cells count: 129, padded
        ([5], 3, [3, 16]),
    ],
)
def test_trees_are_joined_until_a_run_is_long_enough(sizes: list[int], shared: int, bounds: list[int]):
    assert run_bounds(sizes, shared) == bounds


def test_keys_are_the_shared_cells_and_the_run_in_whole_tiles():
    assert [*run_parts(494, [0, 200, 350, 494])] == [
        Part(0, 200, 0, 0, 208), Part(200, 350, 0, 200, 360), Part(350, 494, 0, 350, 494),
    ]  # fmt: skip
    assert [*run_parts(508, [30, 230, 380, 508])][1:] == [
        Part(230, 380, 32, 230, 390), Part(380, 508, 32, 380, 508)
    ]  # fmt: skip
    assert [*run_parts(37, None)] == [Part(0, 37, 0, 0, 37)]  # a row that is attended whole


def test_long_runs_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "BLOCK", 64)
    assert [*blocks(400, [16, 150, 400])] == [
        Part(0, 80, 0, 0, 80), Part(80, 150, 0, 0, 160),
        Part(150, 214, 16, 150, 214), Part(214, 278, 16, 150, 278), Part(278, 342, 16, 150, 342),
        Part(342, 400, 16, 150, 400),
    ]  # fmt: skip
    monkeypatch.setattr(runs, "SCORES", 32 * 272)
    assert [part.end - part.start for part in blocks(400, [16, 128, 400])] == [64, 64, *[32] * 8, 16]


def test_a_query_sees_what_it_sees_in_a_whole_row():
    trees = [
        tree([7, 8, 9, *[10 + size] * size], [5] * 90, [6] * (size % 7 + 1)) for size in (40, 60, 51, 3, 2)
    ]
    whole, in_runs = pack(trees, row_length=4096), pack(trees, row_length=None)
    assert in_runs.runs is not None and in_runs.runs.tolist() == [3, 158, 302, 438, 630]
    assert whole.input_ids[0, :630].tolist() == in_runs.input_ids[0].tolist()
    expected = whole.attention_mask()[0, 0]
    mask = in_runs.attention_mask()[0, 0]
    assert mask.shape == (630, 16 + 192)
    for part in run_parts(630, in_runs.runs.tolist()):
        keys = [*range(part.shared), *range(part.first, part.stop)]
        for query in range(part.start, part.end):
            seen = [keys[column] for column in mask[query].nonzero().flatten().tolist()]
            assert seen == expected[query].nonzero().flatten().tolist()


def test_a_window_reaches_into_the_shared_cells():
    trees = [tree([1, 2, 3, size], [5] * 150) for size in (7, 8)]
    packed = pack(trees, row_length=None)
    near = packed.attention_mask(window=3)[0, 0]
    begins = 4 + 150  # of the second tree's own cells, at position 3: it sees itself, and positions 1 and 2
    assert near[begins].nonzero().flatten().tolist() == [1, 2, 16]


def test_occupancy_counts_the_padding_of_the_last_run_alone():
    trees = [tree([1, 2, size], [5] * size) for size in (200, 150, 130)]
    packed = pack(trees, row_length=None)
    assert occupancy(trees, 1000, None) == (2 + 201 + 151 + 131, packed.input_ids.numel())
    padding = packed.tree[0] == PADDING
    assert padding.sum() == 144 - 131
    assert packed.attention_mask()[0, 0, padding].any(-1).all()  # a query that saw nothing would be a nan
