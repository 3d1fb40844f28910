"""Key/value buffers that are written in place: slot j of a row holds its token j."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stages.layout import round_up
from stages.rollout.attention import grouped_attention

GROWTH = 32  # slots by which buffers grow


class KeyValueCache:
    """What transformers calls a cache, without its concatenation of the whole past at every token.

    A prefill writes a run of slots, a decode step one slot per row; both begin at the row's own length. Attention is to
    whole buffers, behind a mask: a part of them would be copied for every product. So they hold little more than the
    longest row, and grow as it does.
    """

    def __init__(self, lengths: Int[Tensor, " rows"], capacity: int, *, offset: int = 0) -> None:
        self.lengths = lengths  # tokens already stored, per row
        self.capacity = capacity
        # Set once there is room for all that will come: a recorded step knows the buffers' addresses, and no length is
        # read back from the device.
        self.static = False
        self.offset = offset  # the position of the first slot
        self.keys: list[Tensor] = []  # one [rows, heads, capacity, head_dim] per layer
        self.values: list[Tensor] = []
        self._places: tuple[Tensor, Tensor]  # that the current step writes: rows and slots, each [rows, new]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.lengths.max())

    def positions(self, new: int) -> Int[Tensor, "rows new"]:
        """Of the `new` tokens about to be written."""
        return self.offset + self._next(new)

    def advance(self, by: Int[Tensor, " rows"]) -> None:
        """So many of the tokens that were written last are there to stay."""
        self.lengths += by  # in place: a recorded step knows its address

    def attend(
        self,
        queries: Float[Tensor, "rows heads new size"],
        keys: Float[Tensor, "rows shared new size"],
        values: Float[Tensor, "rows shared new size"],
        mask: Float[Tensor, "rows 1 new capacity"],
        layer: int,
        scaling: float,
    ) -> Float[Tensor, "rows new heads size"]:
        """Store the new tokens' keys and values, and attend to all that is there."""
        keys, values = self.update(keys, values, layer)
        return grouped_attention(None, queries, keys, values, mask, scaling)[0]

    def update(
        self,
        keys: Float[Tensor, "rows heads new head_dim"],
        values: Float[Tensor, "rows heads new head_dim"],
        layer_idx: int,
        *_args,
        **_kwargs,
    ) -> tuple[Float[Tensor, "rows heads capacity head_dim"], Float[Tensor, "rows heads capacity head_dim"]]:
        """Called by each attention layer; returns what it attends to."""
        rows, heads, new, _ = keys.shape
        if layer_idx == 0:
            self._places = torch.arange(rows, device=keys.device)[:, None], self._next(new)
        if layer_idx == len(self.keys):
            for store, tensor in ((self.keys, keys), (self.values, values)):
                store.append(tensor.new_zeros(rows, heads, self.capacity, tensor.shape[3]))
        for buffer, tensor in ((self.keys[layer_idx], keys), (self.values[layer_idx], values)):
            buffer.transpose(1, 2)[self._places] = tensor.transpose(1, 2)
        return self.keys[layer_idx], self.values[layer_idx]

    def visible(self, new: int, window: int | None) -> Bool[Tensor, "rows 1 new capacity"]:
        """What each of the `new` tokens about to be written may attend to: its row's past, and itself."""
        slots = torch.arange(self.capacity, device=self.lengths.device)
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
        if not self.static:
            self.resize(min(self.capacity, capacity_for(self.get_seq_length())))
        return order

    def reserve(self, new: int) -> None:
        """Room for so many tokens more in each row."""
        if not self.static and (needed := self.get_seq_length() + new) > self.capacity:
            self.resize(capacity_for(needed))

    def resize(self, capacity: int) -> None:
        """So many slots a row."""
        for buffers in (self.keys, self.values):
            for layer, buffer in enumerate(buffers):
                buffers[layer] = _resized(buffer, capacity)
        self.capacity = capacity

    def allocate(self, like: KeyValueCache) -> None:
        """Buffers as another cache has them; otherwise the first tokens bring them."""
        self.keys, self.values = (
            [
                each.new_zeros(len(self.lengths), each.shape[1], self.capacity, each.shape[3])
                for each in buffers
            ]
            for buffers in (like.keys, like.values)
        )

    def extend(self, other: KeyValueCache) -> None:
        """Append the rows of another cache, growing the narrower one's capacity."""
        capacity = max(self.capacity, other.capacity)
        self.lengths = torch.cat([self.lengths, other.lengths])
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (old, new) in enumerate(zip(mine, theirs, strict=True)):
                mine[layer] = torch.cat([_resized(old, capacity), _resized(new, capacity)])
        self.capacity = capacity

    def _next(self, new: int) -> Int[Tensor, "rows new"]:
        """The slots that the `new` tokens take in their rows."""
        return self.lengths[:, None] + torch.arange(new, device=self.lengths.device)


def capacity_for(slots: int) -> int:
    """What buffers that hold so many slots are grown to."""
    return round_up(slots, GROWTH)


def _resized(buffer: Tensor, capacity: int) -> Tensor:
    more = capacity - buffer.shape[2]
    return F.pad(buffer, (0, 0, 0, more)) if more else buffer
