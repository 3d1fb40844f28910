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
    64  # tokens of the longest prompt: copies of shorter ones cost less than attention in two parts
)


class SharedPromptCache:
    """Decoding by attention in two parts, one to the prompts and one to the rows' own tokens, merged by their logsumexp
    (Juravsky et al. 2024, "Hydragen"). On the CPU, whose kernel returns it, and for models without a sliding window,
    which would hide the prompt some time.

    What the native decoder and the sampler ask of a KeyValueCache, it has too.
    """

    def __init__(self, prompts: KeyValueCache, group: int, max_new_tokens: int) -> None:
        """`group` rows for each row of `prompts`, in order."""
        count = len(prompts.lengths)
        self.static = False
        self.prompts = prompts
        self.own = KeyValueCache(prompts.lengths.new_zeros(count * group), max_new_tokens)
        self.own.allocate(prompts)
        self._arrange([prompt for prompt in range(count) for _ in range(group)])

    def advance(self, by: Int[Tensor, " rows"]) -> None:
        self.own.advance(by)

    def positions(self, new: int) -> Int[Tensor, "rows new"]:
        return self.prompts.lengths[self._prompt_of, None] + self.own.positions(new)

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
        own, own_logsumexp = _part(grouped, *self.own.update(keys, values, layer), masks[1], scaling)
        together = grouped[self._members].unflatten(0, (len(self.prompts.lengths), -1)).transpose(1, 2)
        places = together.shape[2:4]  # rows of a prompt, queries of a row
        found = _part(together.flatten(2, 3), *self._prompt(layer), masks[0], scaling)
        prompt, logsumexp = (
            each.unflatten(2, places).transpose(1, 2).flatten(0, 1)[self._place_of] for each in found
        )
        share = torch.sigmoid(logsumexp - own_logsumexp)[..., None]  # of the prompt in the softmax's sum
        return torch.lerp(own, prompt, share.to(own.dtype)).flatten(1, 2)[:, None]

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
        """Note which rows belong to each prompt, padded with row 0 to equally many, and where each row is in that."""
        members = defaultdict(list)
        for row, prompt in enumerate(prompts):
            members[prompt].append(row)
        width = max(map(len, members.values()), default=0)
        padded = [row for _, rows in sorted(members.items()) for row in rows + [0] * (width - len(rows))]
        places = {
            row: prompt * width + place for prompt, rows in members.items() for place, row in enumerate(rows)
        }
        self._longest = self.prompts.width(0)  # read once here, not in every layer of every step
        self._prompt_of, self._members, self._place_of = (
            torch.tensor(indices, dtype=torch.long, device=self.own.lengths.device)
            for indices in (prompts, padded, [places[row] for row in range(len(prompts))])
        )

    def _prompt(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self.prompts.keys[layer], self.prompts.values[layer]
        return keys[:, : self._longest].transpose(1, 2), values[:, : self._longest].transpose(1, 2)

    def _visible_prompt(self, _window: int | None) -> Bool[Tensor, "prompts 1 1 width"]:
        slots = torch.arange(self._longest, device=self.prompts.lengths.device)
        return (slots < self.prompts.lengths[:, None])[:, None, None]


def _part(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys, and the logarithm of the sum of their weights."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scaling
    )
