"""Trees laid into rows: cells by hand, and what each may see."""

from __future__ import annotations

import pytest
import torch

from stages.layout import balanced, layout, split
from stages.packing import PADDING, SHARED, occupancy, pack
from stages.trees import Node, Tree
from tests.models.tiny import tree


def test_two_trees_in_one_row_by_hand():
    packed = pack([tree([1, 10], [11, 2], [12]), tree([1], [13, 14])])
    # shared [1], then tree 0 (10, 11 2, 12), then tree 1 (13 14), whose prompt is the shared token alone
    assert packed.input_ids.tolist() == [[1, 10, 11, 2, 12, 13, 14]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 1, 2]]
    assert packed.tree.tolist() == [[SHARED, 0, 0, 0, 0, 1, 1]]
    assert packed.branch.tolist() == [[PADDING, PADDING, 0, 0, 1, 2, 2]]
    assert packed.predictors.tolist() == [1, 2, 1, 0, 5]
    assert packed.target_ids.tolist() == [11, 2, 12, 13, 14]
    assert packed.ends.tolist() == [3, 4, 6]
    assert packed.mask().tolist() == [[True, True], [True, False], [True, True]]
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert packed.unpack(values).tolist() == [[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]]


def test_who_sees_whom():
    packed = pack([tree([1, 10], [11, 2], [12]), tree([1], [13, 14])])
    seen = {cell: row.nonzero().flatten().tolist() for cell, row in enumerate(packed.attention_mask()[0, 0])}
    assert seen == {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 3], 4: [0, 1, 4], 5: [0, 5], 6: [0, 5, 6]}
    # a window of 2 positions: a token and the one before it, wherever that stands
    near = {cell: row.nonzero().flatten().tolist() for cell, row in enumerate(packed.attention_mask(2)[0, 0])}
    assert near == {0: [0], 1: [0, 1], 2: [1, 2], 3: [2, 3], 4: [1, 4], 5: [0, 5], 6: [5, 6]}


def test_only_masked_tokens_are_targets_and_end_of_turn_is_one():
    turns = Node([5, 6, 2, 7, 8, 2], [False, True, True, False, True, True])
    packed = pack([Tree(Node([1], [False]), [turns])])
    assert packed.target_ids.tolist() == [6, 2, 8, 2]
    assert packed.mask().tolist() == [[False, True, True, False, True, True]]


def test_padding_sees_only_itself_and_is_seen_by_nothing_else():
    long, short = tree(range(3, 203), range(3, 803)), tree(range(50, 350), range(50, 650))
    packed = pack([long, short])
    assert packed.input_ids.shape == (2, 1008)  # a tree is never cut; 63 tiles of 16
    padding = packed.tree == PADDING
    assert padding.sum() == 116
    mask = packed.attention_mask()[:, 0]
    assert not (mask & (padding[:, :, None] != padding[:, None, :])).any()
    assert mask.any(2).all()  # a query that saw nothing would be a nan


def test_short_trees_share_rows():
    trees = [tree([1, 5 + i], [9 + i] * 40) for i in range(8)]
    assert pack(trees).input_ids.shape == (4, 1 + 2 * 41)  # 332 cells; one row of 329 would be padded to 336


def test_rows_are_as_long_as_leaves_least_and_order_is_kept():
    trees = [tree([1, 5 + i], *([9 + i] * 40 for _ in range(3))) for i in range(8)]
    packed = pack(trees)
    # one shared token and 121 own ones each: 8 rows of 122 are 976 cells, 4 rows of 2 would be 243 and padded to 256
    assert packed.input_ids.shape == (8, 122)
    assert packed.input_ids.flatten()[packed.ends].tolist() == [9 + i for i in range(8) for _ in range(3)]
    assert packed.shape == (24, 40)


@pytest.mark.parametrize(("tokens", "length"), [(127, 127), (128, 128), (129, 144), (144, 144), (145, 160)])
def test_rows_that_are_not_short_are_whole_tiles(tokens: int, length: int):
    alone = tree(range(3, 103), range(tokens - 100))
    assert pack([alone]).input_ids.shape == (1, length)
    assert occupancy([alone], 1000) == (tokens, length)


def test_first_token_without_a_prompt_has_no_predictor():
    assert pack([tree([], [7, 8, 9])]).target_ids.tolist() == [8, 9]


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="at least one completion"):
        pack([tree([1, 2])])


def test_split_keeps_the_budget_and_every_index_once():
    # largest first: 9 alone (over the budget), 5, 4 + 2 + 1
    assert split([4, 9, 1, 5, 2], max_tokens=7) == [[1], [3], [0, 4, 2]]
    assert split([3, 3], max_tokens=100) == [[0, 1]]
    assert split([], max_tokens=7) == []


def test_groups_of_a_split_are_about_equal():
    # filled to the brim, the first would hold 16 and the second 1
    assert split([4, 4, 1, 4, 4], max_tokens=16) == [[0, 1], [3, 4, 2]]


def test_groups_are_about_equal():
    # 6 | 5 | then 4 beside 5, 3 beside 6, 2 beside either: the first
    assert balanced([2, 6, 4, 5, 3], 2) == [[1, 4, 0], [3, 2]]
    assert balanced([7], 1) == [[0]]


@pytest.mark.parametrize(
    ("sizes", "shared", "row_length", "lengths"),
    [
        (
            [300, 100, 100, 100],
            0,
            384,
            [300, 300],
        ),  # one row of 600 has no padding either, and more attention
        ([390, 10], 0, 384, [400]),  # 400 * (1 + 16 / 1152) = 406 cells' worth, two rows would be 780
        ([300, 290, 280], 0, 384, [300, 290, 280]),  # 900; one row: 870 * (1 + 486 / 1152) = 1237
        ([300, 290, 280], 0, 4096, [870]),  # attention that skips blocks
        ([30] * 8, 100, 384, [340]),  # the shared cells once, not once a row
        ([5], 0, 384, [5]),
    ],
)
def test_rows_are_as_many_as_leave_least_to_compute(
    sizes: list[int], shared: int, row_length: int, lengths: list[int]
):
    rows = layout(sizes, shared, row_length)
    assert sorted(index for row in rows for index in row) == [*range(len(sizes))]
    assert sorted((shared + sum(sizes[index] for index in row) for row in rows), reverse=True) == lengths
