"""Key/value buffers that are written in place: slot j of a row holds the token at position j."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class KeyValueCache:
    """What transformers calls a cache, without its concatenation of the whole past at every token.

    A prefill writes a run of slots, a decode step one slot per row; both begin at the row's own length.
    """

    def __init__(self, lengths: Int[Tensor, " rows"], capacity: int) -> None:
        self.lengths = lengths  # tokens already stored, per row
        self.capacity = capacity
        self.keys: list[Tensor] = []  # one [rows, heads, capacity, head_dim] per layer
        self.values: list[Tensor] = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.lengths.max())

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_args, **_kwargs
    ) -> tuple[Tensor, Tensor]:
        """Called by each attention layer with [rows, heads, new, head_dim]; returns what it attends to."""
        new = keys.shape[2]
        if layer_idx == len(self.keys):
            for store, tensor in ((self.keys, keys), (self.values, values)):
                store.append(tensor.new_zeros(*tensor.shape[:2], self.capacity, tensor.shape[3]))
        rows = torch.arange(len(self.lengths), device=keys.device)[:, None]
        slots = self.lengths[:, None] + torch.arange(new, device=keys.device)
        self.keys[layer_idx][rows, :, slots] = keys.transpose(1, 2)
        self.values[layer_idx][rows, :, slots] = values.transpose(1, 2)
        width = self.get_seq_length() + new
        return self.keys[layer_idx][:, :, :width], self.values[layer_idx][:, :, :width]

    def visible(self, new: int, window: int | None) -> Bool[Tensor, "rows 1 new width"]:
        """What each of the `new` tokens about to be written may attend to: its row's past, and itself."""
        slots = torch.arange(self.get_seq_length() + new, device=self.lengths.device)
        last = (self.lengths[:, None] + torch.arange(new, device=self.lengths.device))[:, :, None]
        mask = slots <= last
        if window is not None:
            mask &= slots > last - window
        return mask[:, None]

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; a row named twice is copied."""
        self.lengths = self.lengths[rows]
        self.keys = [keys.index_select(0, rows) for keys in self.keys]
        self.values = [values.index_select(0, rows) for values in self.values]

    def extend(self, other: KeyValueCache) -> None:
        """Append the rows of another cache, growing the narrower one's capacity."""
        capacity = max(self.capacity, other.capacity)
        self.lengths = torch.cat([self.lengths, other.lengths])
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (old, new) in enumerate(zip(mine, theirs, strict=True)):
                mine[layer] = torch.cat([_widen(old, capacity), _widen(new, capacity)])
        self.capacity = capacity


def _widen(buffer: Tensor, capacity: int) -> Tensor:
    return torch.nn.functional.pad(buffer, (0, 0, 0, capacity - buffer.shape[2]))
