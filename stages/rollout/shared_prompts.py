"""A group's completions share the keys and values of their prompt: held once, and read once a step for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.rollout.attention import as_key_queries
from stages.rollout.cache import KeyValueCache, Masks, Visible

SHARING_PAYS = (
    64  # tokens of a prompt: of a shorter one, reading it for each row costs less than two parts of attention
)


class SharedPromptCache:
    """Decoding by attention in two parts, one to the prompts and one to the rows' own tokens, merged by their
    normalizers (Juravsky et al. 2024, "Hydragen"). On the CPU, whose kernel returns them, and for models without a
    sliding window, which would hide the prompt some time. Interface as KeyValueCache's.
    """

    static = False

    def __init__(self, prompts: KeyValueCache, group: int, max_new_tokens: int) -> None:
        """`group` rows for each row of `prompts`, in order."""
        count = len(prompts.lengths)
        self.prompts = prompts
        self.own = KeyValueCache(prompts.lengths.new_zeros(count * group), max_new_tokens)
        self.own.allocate(prompts)
        self._seat([prompt for prompt in range(count) for _ in range(group)])

    def advance(self, by: Int[Tensor, " rows"]) -> None:
        self.own.advance(by)

    def positions(self, new: int) -> Int[Tensor, "rows new"]:
        return self.prompts.lengths[self._owners, None] + self.own.positions(new)

    def masks(self, new: int, build: Callable[[Visible], Any]) -> Masks:
        return [build(self._visible_prompt), *self.own.masks(new, build)]

    def attend(
        self,
        queries: Float[Tensor, "rows heads 1 size"],
        keys: Float[Tensor, "rows shared 1 size"],
        values: Float[Tensor, "rows shared 1 size"],
        masks: list[Tensor],
        layer: int,
        scaling: float,
    ) -> Float[Tensor, "rows 1 heads size"]:
        grouped = as_key_queries(queries, keys.shape[1])
        own, own_normalizer = _part(grouped, *self.own.update(keys, values, layer), masks[1], scaling)
        seated = grouped[self._seats].unflatten(0, (len(self.prompts.lengths), -1)).transpose(1, 2)
        seats = seated.shape[2:4]
        found = _part(seated.flatten(2, 3), *self._prompt(layer), masks[0], scaling)
        prompt, normalizer = (
            each.unflatten(2, seats).transpose(1, 2).flatten(0, 1)[self._seat_of] for each in found
        )
        share = torch.sigmoid(normalizer - own_normalizer)[..., None]  # of the prompt in the softmax's sum
        return torch.lerp(own, prompt, share.to(own.dtype)).flatten(1, 2)[:, None]

    def shrink(self, running: list[int]) -> list[int]:
        """Keep these rows, and the prompts that have some; returns who is where."""
        order = self.own.shrink(running)
        owners = [int(self._owners[row]) for row in order]
        kept = self.prompts.shrink(sorted(set(owners)))
        self._seat([kept.index(owner) for owner in owners])
        return order

    def extend(self, other: SharedPromptCache) -> None:
        """Append the prompts and rows of another cache."""
        owners = self._owners.tolist() + [
            len(self.prompts.lengths) + owner for owner in other._owners.tolist()
        ]
        self.prompts.extend(other.prompts)
        self.own.extend(other.own)
        self._seat(owners)

    def _seat(self, owners: list[int]) -> None:
        """Give each row a seat at its prompt's table; tables have equally many, and row 0 sits in the empty ones."""
        tables = defaultdict(list)
        for row, owner in enumerate(owners):
            tables[owner].append(row)
        width = max(map(len, tables.values()), default=0)
        seats = [row for _, table in sorted(tables.items()) for row in table + [0] * (width - len(table))]
        places = {
            row: owner * width + seat for owner, table in tables.items() for seat, row in enumerate(table)
        }
        device = self.own.lengths.device
        self._owners = torch.tensor(owners, dtype=torch.long, device=device)
        self._seats = torch.tensor(seats, dtype=torch.long, device=device)
        self._seat_of = torch.tensor(
            [places[row] for row in range(len(owners))], dtype=torch.long, device=device
        )

    def _prompt(self, layer: int) -> tuple[Tensor, Tensor]:
        width = self.prompts.width(0)
        return (
            self.prompts.keys[layer][:, :width].transpose(1, 2),
            self.prompts.values[layer][:, :width].transpose(1, 2),
        )

    def _visible_prompt(self, _window: int | None) -> Bool[Tensor, "prompts 1 1 width"]:
        slots = torch.arange(self.prompts.width(0), device=self.prompts.lengths.device)
        return (slots < self.prompts.lengths[:, None])[:, None, None]


def _part(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys, and the logarithm of the sum of their weights."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scaling
    )
