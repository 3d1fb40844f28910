"""Key/value buffers that are written in place: slot j of a row holds its token j."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.rollout.attention import grouped_attention

Visible = Callable[[int | None], Tensor]  # from a sliding window's size to a boolean mask
Masks = list[Any]  # of each part that is attended to: what a model takes, for all its layers or by their kind


class KeyValueCache:
    """What transformers calls a cache, without its concatenation of the whole past at every token.

    A prefill writes a run of slots, a decode step one slot per row; both begin at the row's own length. What is
    attended to is as wide as the longest row, or, where `static`, as the buffers: the same shape at every step, and
    no length is read back from the device.
    """

    def __init__(
        self, lengths: Int[Tensor, " rows"], capacity: int, *, static: bool = False, offset: int = 0
    ) -> None:
        self.lengths = lengths  # tokens already stored, per row
        self.capacity = capacity
        self.static = static
        self.offset = offset  # the position of the first slot
        self.keys: list[Tensor] = []  # one [rows, capacity, heads, head_dim] per layer
        self.values: list[Tensor] = []
        # Of the current step: the slots that it writes, in the flattened buffers, and how many it attends to.
        self._slots, self._width = lengths, 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.lengths.max())

    def positions(self, new: int) -> Int[Tensor, "rows new"]:
        """Of the `new` tokens about to be written."""
        return self.offset + self._next(new)

    def advance(self, by: Int[Tensor, " rows"]) -> None:
        """So many of the tokens that were written last are there to stay."""
        self.lengths += by  # in place: a recorded step knows its address

    def masks(self, new: int, build: Callable[[Visible], Any]) -> Masks:
        """What the `new` tokens about to be written may attend to, each part as `build` makes it."""
        return [build(partial(self.visible, new))]

    def attend(
        self,
        queries: Float[Tensor, "rows heads new size"],
        keys: Float[Tensor, "rows shared new size"],
        values: Float[Tensor, "rows shared new size"],
        masks: list[Tensor],
        layer: int,
        scaling: float,
    ) -> Float[Tensor, "rows new heads size"]:
        """Store the new tokens' keys and values, and attend to all that is there."""
        keys, values = self.update(keys, values, layer)
        return grouped_attention(None, queries, keys, values, masks[0], scaling)[0]

    def update(
        self,
        keys: Float[Tensor, "rows heads new head_dim"],
        values: Float[Tensor, "rows heads new head_dim"],
        layer_idx: int,
        *_args,
        **_kwargs,
    ) -> tuple[Float[Tensor, "rows heads width head_dim"], Float[Tensor, "rows heads width head_dim"]]:
        """Called by each attention layer; returns what it attends to."""
        rows, _, new, _ = keys.shape
        if layer_idx == 0:
            first = torch.arange(rows, device=keys.device)[:, None] * self.capacity
            self._slots, self._width = (first + self._next(new)).flatten(), self.width(new)
        if layer_idx == len(self.keys):
            for store, tensor in ((self.keys, keys), (self.values, values)):
                store.append(tensor.new_zeros(rows, self.capacity, tensor.shape[1], tensor.shape[3]))
        for buffer, tensor in ((self.keys[layer_idx], keys), (self.values[layer_idx], values)):
            buffer.flatten(0, 1).index_copy_(0, self._slots, tensor.transpose(1, 2).flatten(0, 1))
        return (
            self.keys[layer_idx][:, : self._width].transpose(1, 2),
            self.values[layer_idx][:, : self._width].transpose(1, 2),
        )

    def visible(self, new: int, window: int | None) -> Bool[Tensor, "rows 1 new width"]:
        """What each of the `new` tokens about to be written may attend to: its row's past, and itself."""
        slots = torch.arange(self.width(new), device=self.lengths.device)
        last = self._next(new)[:, :, None]
        mask = slots <= last
        if window is not None:
            mask &= slots > last - window
        return mask[:, None]

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; a row named twice is copied."""
        self.lengths = self.lengths[rows]
        self.keys = [keys.index_select(0, rows) for keys in self.keys]
        self.values = [values.index_select(0, rows) for values in self.values]

    def shrink(self, running: list[int]) -> list[int]:
        """Keep these rows, the last ones moved into the places of those that go; returns who is where."""
        count = len(running)
        holes = sorted(set(range(count)) - set(running))
        movers = [row for row in running if row >= count]
        order = list(range(count))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        to, source = (
            torch.tensor(rows, dtype=torch.long, device=self.lengths.device) for rows in (holes, movers)
        )
        for buffers in ([self.lengths], self.keys, self.values):
            for index, buffer in enumerate(buffers):
                buffer.index_copy_(0, to, buffer.index_select(0, source))
                buffers[index] = buffer[:count]
        self.lengths = self.lengths[:count]
        return order

    def allocate(self, like: KeyValueCache) -> None:
        """Buffers as another cache has them; otherwise the first tokens bring them."""
        shape = (len(self.lengths), self.capacity)
        self.keys = [keys.new_zeros(*shape, *keys.shape[2:]) for keys in like.keys]
        self.values = [values.new_zeros(*shape, *values.shape[2:]) for values in like.values]

    def extend(self, other: KeyValueCache) -> None:
        """Append the rows of another cache, growing the narrower one's capacity."""
        capacity = max(self.capacity, other.capacity)
        self.lengths = torch.cat([self.lengths, other.lengths])
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (old, new) in enumerate(zip(mine, theirs, strict=True)):
                mine[layer] = torch.cat([_widen(old, capacity), _widen(new, capacity)])
        self.capacity = capacity

    def _next(self, new: int) -> Int[Tensor, "rows new"]:
        """The slots that the `new` tokens take in their rows."""
        return self.lengths[:, None] + torch.arange(new, device=self.lengths.device)

    def width(self, new: int) -> int:
        """How many slots are attended to, with `new` tokens more."""
        return self.capacity if self.static else self.get_seq_length() + new


def _widen(buffer: Tensor, capacity: int) -> Tensor:
    return F.pad(buffer, (0, 0, 0, 0, 0, capacity - buffer.shape[1]))
