"""What an algorithm's step works on: trees, with tensors that hold one row per completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stages.data.examples import Example
from stages.packing import split_trees
from stages.trees import Tree


@dataclass(frozen=True)
class Batch:
    """`examples[i]` is what `trees[i]` was made from; a field's rows are the completions of all trees, in order."""

    examples: Sequence[Example]
    trees: Sequence[Tree]
    fields: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def with_fields(self, **fields: Tensor) -> Batch:
        return Batch(self.examples, self.trees, self.fields | fields)

    def take(self, indices: Sequence[int]) -> Batch:
        """These trees with their completions' rows; [batch, seq] fields are cut to the longest completion left."""
        first = torch.tensor([0, *(len(tree.completions) for tree in self.trees)]).cumsum(0).tolist()
        rows = torch.tensor([row for index in indices for row in range(first[index], first[index + 1])])
        trees = [self.trees[index] for index in indices]
        width = max((len(node.input_ids) for tree in trees for node in tree.completions), default=0)
        fields = {
            name: values[rows.to(values.device)]
            if values.dim() == 1
            else values[rows.to(values.device), :width]
            for name, values in self.fields.items()
        }
        return Batch([self.examples[index] for index in indices], trees, fields)

    def seen(self) -> list[Example]:
        """The examples with the completions that this batch holds, sampled ones included."""
        return [replace(example, tree=tree) for example, tree in zip(self.examples, self.trees, strict=True)]

    def split(self, max_tokens: int) -> list[Batch]:
        """Microbatches under a token budget."""
        return [self.take(group) for group in split_trees(self.trees, max_tokens)]


def batch_of(examples: Sequence[Example]) -> Batch:
    """A batch of the examples' own trees."""
    return Batch(examples, [example.tree for example in examples])
