"""A group's completions share the keys and values of their prompt: held once, and read once a step for all of them."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.rollout.attention import as_key_queries, attention_weights
from stages.rollout.cache import KeyValueCache

# Tokens of the longest prompt: copies of shorter ones cost less than attention in two parts.
SHARING_PAYS = 64


class SharedPromptCache:
    """Decoding by attention whose products are taken in two parts, one with the prompts and one with the rows' own
    tokens (Juravsky et al. 2024, "Hydragen").

    What the native decoder and the sampler ask of a KeyValueCache, it has too.
    """

    def __init__(self, prompts: KeyValueCache, group: int) -> None:
        """`group` rows for each row of `prompts`, in order."""
        count = len(prompts.lengths)
        self.static = False
        self.prompts = prompts
        self.own = KeyValueCache(prompts.lengths.new_zeros(count * group), 0)
        self.own.allocate(prompts)
        self._arrange([prompt for prompt in range(count) for _ in range(group)])

    def reserve(self, new: int) -> None:
        self.own.reserve(new)

    def advance(self, by: Int[Tensor, " rows"]) -> None:
        self.own.advance(by)

    def positions(self, new: int) -> Int[Tensor, "rows new"]:
        return self.prompts.lengths[self._prompt_of, None] + self.own.positions(new)

    def visible(self, new: int, window: int | None) -> Bool[Tensor, "rows 1 new width"]:
        """What each of the `new` tokens about to be written may attend to: its prompt, its row's past, and itself."""
        slots = torch.arange(self.prompts.capacity, device=self._prompt_of.device)
        mask = (slots < self.prompts.lengths[self._prompt_of, None, None]).expand(-1, new, -1)
        if window is not None:
            mask = mask & (slots > self.positions(new)[:, :, None] - window)
        return torch.cat([mask[:, None], self.own.visible(new, window)], -1)

    def attend(
        self,
        queries: Float[Tensor, "rows heads 1 size"],
        keys: Float[Tensor, "rows shared 1 size"],
        values: Float[Tensor, "rows shared 1 size"],
        mask: Float[Tensor, "rows 1 1 width"],
        layer: int,
        scaling: float,
    ) -> Float[Tensor, "rows 1 heads size"]:
        """Store the new tokens' keys and values, and attend to all that is there."""
        keys, values = self.own.update(keys, values, layer)
        grouped = as_key_queries(queries, keys.shape[1])

        def products(dtype: torch.dtype) -> Tensor:
            query, of_prompts, own = (each.to(dtype) for each in (grouped, self.prompts.keys[layer], keys))
            return torch.cat([self._with_prompts(query, of_prompts.mT), query @ own.mT], -1)

        weights = attention_weights(products, keys.dtype, mask, scaling)
        of_prompt, of_own = weights.split([self.prompts.capacity, self.own.capacity], -1)
        found = self._with_prompts(of_prompt, self.prompts.values[layer]).add_(of_own @ values)
        return found.flatten(1, 2)[:, None]

    def _with_prompts(
        self,
        left: Float[Tensor, "rows shared queries inner"],
        right: Float[Tensor, "prompts shared inner outer"],
    ) -> Float[Tensor, "rows shared queries outer"]:
        """`left` @ `right` of each row's prompt, in one product for all rows of a prompt."""
        together = left.flatten(0, 1)[self._members]
        found = (together.flatten(2, 3) @ right).unflatten(2, together.shape[2:4])
        return found.flatten(0, 2)[self._places].view(*left.shape[:3], -1)

    def shrink(self, running: list[int]) -> list[int]:
        """Keep these rows, and the prompts that have some; returns who is where."""
        order = self.own.shrink(running)
        prompts = self._prompt_of.tolist()
        prompts = [prompts[row] for row in order]
        kept = sorted(set(prompts))
        if len(kept) < len(self.prompts.lengths):
            kept = self.prompts.shrink(kept)
        now = {prompt: index for index, prompt in enumerate(kept)}
        self._arrange([now[prompt] for prompt in prompts])
        return order

    def extend(self, other: SharedPromptCache) -> None:
        """Append the prompts and rows of another cache."""
        first = len(self.prompts.lengths)
        prompts = self._prompt_of.tolist() + [first + prompt for prompt in other._prompt_of.tolist()]
        self.prompts.extend(other.prompts)
        self.own.extend(other.own)
        self._arrange(prompts)

    def _arrange(self, prompts: list[int]) -> None:
        """Note each row's prompt, the rows of each prompt, padded with row 0 to equally many, and where in that each
        row is; the latter two for each head of the keys.
        """
        members = defaultdict(list)
        for row, prompt in enumerate(prompts):
            members[prompt].append(row)
        width = max(map(len, members.values()), default=0)
        padded = [rows + [0] * (width - len(rows)) for _, rows in sorted(members.items())]
        place_of = {row: place for rows in members.values() for place, row in enumerate(rows)}
        as_index = partial(torch.tensor, dtype=torch.long, device=self.own.lengths.device)
        heads = self.prompts.keys[0].shape[1]
        each_head = torch.arange(heads, device=self.own.lengths.device)
        self._prompt_of = as_index(prompts)  # [rows]
        # [prompts, heads, width], of [rows * heads]
        self._members = as_index(padded).view(-1, 1, width) * heads + each_head[:, None]
        # [rows * heads], of [prompts * heads * width]
        places = as_index([place_of[row] for row in range(len(prompts))])
        of_prompt = self._prompt_of[:, None] * heads + each_head
        self._places = (of_prompt * width + places[:, None]).flatten()
