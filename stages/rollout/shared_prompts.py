"""A group's completions share the keys and values of their prompt: held once, and read once a step for all of them."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.rollout.attention import as_key_queries, attention_weights
from stages.rollout.cache import KeyValueCache

SHARING_PAYS = (
    64  # tokens of the longest prompt: copies of shorter ones cost less than attention in two parts
)


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
        grouped = as_key_queries(queries, keys.shape[1])
        keys, values = self.own.update(keys, values, layer)
        scores = [self._with_prompts(grouped, self.prompts.keys[layer].mT), grouped @ keys.mT]
        weights = attention_weights(torch.cat(scores, -1), mask, scaling)
        of_prompt, of_own = weights.split([self.prompts.capacity, self.own.capacity], -1)
        found = self._with_prompts(of_prompt, self.prompts.values[layer]).add_(of_own @ values)
        return found.flatten(1, 2)[:, None]

    def _with_prompts(
        self,
        left: Float[Tensor, "rows shared queries inner"],
        right: Float[Tensor, "prompts shared inner outer"],
    ) -> Float[Tensor, "rows shared queries outer"]:
        """The product of each row's part with its prompt's, those of a prompt in one."""
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
        """Note which rows belong to each prompt, padded with row 0 to equally many, and where each row is in that; both
        as indices of pairs of a row, or of its place, and a head of the keys."""
        members = defaultdict(list)
        for row, prompt in enumerate(prompts):
            members[prompt].append(row)
        width = max(map(len, members.values()), default=0)
        padded = [rows + [0] * (width - len(rows)) for _, rows in sorted(members.items())]
        place_of = {row: place for rows in members.values() for place, row in enumerate(rows)}
        index = partial(torch.tensor, dtype=torch.long, device=self.own.lengths.device)
        self._prompt_of = index(prompts)
        heads = self.prompts.keys[0].shape[1]
        head = torch.arange(heads, device=self._prompt_of.device)
        self._members = index(padded).view(-1, 1, width) * heads + head[:, None]
        in_order = index([place_of[row] for row in range(len(prompts))])
        self._places = ((self._prompt_of[:, None] * heads + head) * width + in_order[:, None]).flatten()
