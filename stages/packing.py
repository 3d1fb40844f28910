"""How trees of tokens are laid into rows under a token budget.

A completion token attends to its own prompt and to itself, causally, and to nothing else; its position continues
the prompt's. So the completions of one prompt share the prompt's tokens, and a packed row computes exactly what one
padded row per completion would. What all prompts of a batch begin with (a system message, an instruction) is shared in
the same way: it stands once at the start of each row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stages.layout import balanced, layout, split, whole_tiles
from stages.runs import run_bounds, run_parts
from stages.trees import Tree, common_prefix

ROW_LENGTH = 384  # attention costs the square of a row: a third of all else at this length, see layout()
PADDING = -1
SHARED = -2


@dataclass(frozen=True)
class Packed:
    """Trees laid into rows. A flat position is `row * length + column`; `batch` counts completions over all trees."""

    input_ids: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows length"]
    tree: Int[Tensor, "rows length"]  # which one a token belongs to; SHARED: all of its row; PADDING: none
    branch: Int[Tensor, "rows length"]  # which completion; PADDING for prompts and padding
    predictors: Int[Tensor, " targets"]  # flat position whose output predicts the target
    targets: Int[Tensor, " targets"]  # flat position of each token that is trained on
    target_row: Int[Tensor, " targets"]  # its completion
    target_column: Int[Tensor, " targets"]  # its index in the completion
    ends: Int[Tensor, " batch"]  # flat position of each completion's last token
    shape: tuple[int, int]  # (batch, longest completion)
    # of a single row (stages/runs.py); None: rows are attended whole
    runs: Int[Tensor, " bounds"] | None = None

    @property
    def target_ids(self) -> Int[Tensor, " targets"]:
        return self.input_ids.flatten()[self.targets]

    def mask(self) -> Bool[Tensor, "batch seq"]:
        """True where index t of a completion is a token that is trained on."""
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.input_ids.device)
        mask[self.target_row, self.target_column] = True
        return mask

    def unpack(self, values: Tensor) -> Tensor:
        """Lay `values` [targets] out as [batch, seq], zero elsewhere; index t is completion token t."""
        rows = values.new_zeros(self.shape)
        return rows.index_put((self.target_row, self.target_column), values)

    def attention_mask(self, window: int | None = None) -> Bool[Tensor, "rows 1 length width"]:
        """True where a query may see a key: `window` is a sliding-window size in positions.

        Columns are the row's, or in runs the keys of each query's run.
        """
        cells = torch.arange(self.tree.shape[1], device=self.tree.device)
        if self.runs is None:
            row = torch.arange(len(self.tree), device=self.tree.device)[:, None, None]
            return self.visible(row, cells[:, None], cells, window)[:, None]
        parts = [*run_parts(len(cells), self.runs.tolist())]
        mask = cells.new_zeros((1, 1, len(cells), max(part.width for part in parts)), dtype=torch.bool)
        for part in parts:
            keys = part.seen(cells[:, None]).flatten()
            seen = self.visible(cells.new_zeros(()), cells[part.start : part.end, None], keys, window)
            # the rest of the shared cells' last tile may reach into the run's own keys
            seen[:, self.runs[0] : part.shared] = False
            mask[0, 0, part.start : part.end, : part.width] = seen
        return mask

    def visible(self, row: Tensor, query: Tensor, key: Tensor, window: int | None = None) -> Tensor:
        """Whether column `query` of `row` may see its column `key`; the three are indices, which broadcast."""
        key_tree, query_tree = self.tree[row, key], self.tree[row, query]
        key_branch = self.branch[row, key]
        distance = self.position_ids[row, query] - self.position_ids[row, key]
        own = (query_tree == key_tree) & ((key_branch == PADDING) | (key_branch == self.branch[row, query]))
        seen = (own | ((key_tree == SHARED) & (query_tree != PADDING))) & (distance >= 0)
        return seen if window is None else seen & (distance < window)


def pack(
    trees: Sequence[Tree], device: torch.device | str = "cpu", row_length: int | None = ROW_LENGTH
) -> Packed:
    """Lay every tree, whole, into rows of up to `row_length` tokens, or longer ones where they leave less to compute;
    with None into a single row, attended in runs.

    Raises ValueError where there is no completion.
    """
    first = [0, *accumulate(len(tree.completions) for tree in trees)]
    if first[-1] == 0:
        raise ValueError("pack() needs at least one completion")
    shared, sizes, rows, length, bounds = plan = _plan(trees, row_length)
    grid = torch.full((4, len(rows), length), PADDING)
    grid[:2] = 0
    grid[:3, :, : len(shared)] = torch.tensor([shared, range(len(shared)), [SHARED] * len(shared)])[:, None]
    targets: list[tuple[int, int, int, int]] = []
    ends = [0] * first[-1]
    for index, row, start in plan.places():
        cells, found, tree_ends = _place(trees[index], index, first[index], row * length, start, len(shared))
        grid[:, row, start : start + sizes[index]] = cells
        targets += found
        ends[first[index] : first[index + 1]] = tree_ends
    longest = max(len(node.input_ids) for tree in trees for node in tree.completions)
    input_ids, position_ids, tree_ids, branch = grid.to(device)
    columns = torch.tensor(sorted(targets, key=lambda t: t[2:]), dtype=torch.long, device=device).reshape(
        -1, 4
    )
    return Packed(
        input_ids, position_ids, tree_ids, branch, *columns.unbind(1),
        ends=torch.tensor(ends, device=device), shape=(first[-1], longest),
        runs=torch.tensor(bounds) if bounds else None,
    )  # fmt: skip


class _Plan(NamedTuple):
    shared: list[int]  # the tokens that all trees begin with
    sizes: list[int]  # of each tree beside them
    rows: list[list[int]]  # which trees share one
    length: int
    bounds: list[int] | None = None  # of the runs of a single row

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Each tree, its row and its first column."""
        for row, members in enumerate(self.rows):
            starts = accumulate((self.sizes[index] for index in members), initial=len(self.shared))
            for index, start in zip(members, starts, strict=False):  # the last one is the row's end
                yield index, row, start


def _plan(trees: Sequence[Tree], row_length: int | None) -> _Plan:
    shared = trees[0].prompt.input_ids[: common_prefix([tree.prompt.input_ids for tree in trees])]
    sizes = [len(tree) - len(shared) for tree in trees]
    if row_length is None:
        rows = balanced(sizes, 1)
        bounds = run_bounds([sizes[index] for index in rows[0]], len(shared))
        return _Plan(shared, sizes, rows, bounds[-1], bounds)
    rows = layout(sizes, len(shared), row_length)
    longest = len(shared) + max(sum(sizes[index] for index in row) for row in rows)
    return _Plan(shared, sizes, rows, whole_tiles(longest))


def split_trees(trees: Sequence[Tree], max_tokens: int) -> list[list[int]]:
    """Which trees share a microbatch of at most `max_tokens` tokens; one that is larger stands alone."""
    return split([len(tree) for tree in trees], max_tokens)


def occupancy(trees: Sequence[Tree], max_tokens: int, row_length: int | None = ROW_LENGTH) -> tuple[int, int]:
    """How many cells hold a token when these trees are packed in microbatches, and how many there are."""
    held = cells = 0
    for group in split_trees(trees, max_tokens):
        plan = _plan([trees[index] for index in group], row_length)
        held += len(plan.shared) * len(plan.rows) + sum(plan.sizes)
        cells += plan.length * len(plan.rows)
    return held, cells


def _place(
    tree: Tree, index: int, batch: int, row: int, start: int, shared: int
) -> tuple[Tensor, list[tuple[int, int, int, int]], list[int]]:
    """One tree's cells [4, tokens], its targets (predictor, target, completion, index) and its completions' ends.

    `row` is the flat position of the row's first cell, `start` the tree's column; `shared` prompt tokens stand before.
    """
    prompt = tree.prompt.input_ids[shared:]
    before = row + (start + len(prompt) if prompt else shared) - 1  # the cell of the prompt's last token
    length = shared + len(prompt)
    ids, positions, branches = list(prompt), list(range(shared, length)), [PADDING] * len(prompt)
    targets, ends = [], []
    for branch, node in enumerate(tree.completions, batch):
        offset = row + start + len(ids)
        for column, trained in enumerate(node.loss_mask):
            if trained and (column or length):  # nothing predicts the first token behind an empty prompt
                targets.append((offset + column - 1 if column else before, offset + column, branch, column))
        ids += node.input_ids
        positions += range(length, length + len(node.input_ids))
        branches += [branch] * len(node.input_ids)
        ends.append(row + start + len(ids) - 1)
    return torch.tensor([ids, positions, [index] * len(ids), branches]), targets, ends
