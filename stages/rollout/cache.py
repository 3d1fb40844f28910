"""Key/value buffers that are written in place: slot j of a row holds the token at position j."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class KeyValueCache:
    """What transformers calls a cache, without its concatenation of the whole past at every token.

    Prefill writes a run of slots from 0; a decode step writes one slot per row, at that row's own length.
    """

    def __init__(self, lengths: Int[Tensor, " rows"], capacity: int) -> None:
        self.lengths = lengths  # tokens already stored, per row
        self.capacity = capacity
        self.keys: list[Tensor] = []  # one [rows, heads, capacity, head_dim] per layer
        self.values: list[Tensor] = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.lengths.max())

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_args, **_kwargs) -> tuple[Tensor, Tensor]:
        """Called by each attention layer; returns what it attends to."""
        if layer_idx == len(self.keys):
            return self._prefill(keys, values)
        rows = torch.arange(len(self.lengths), device=keys.device)
        self.keys[layer_idx][rows, :, self.lengths] = keys[:, :, 0]
        self.values[layer_idx][rows, :, self.lengths] = values[:, :, 0]
        width = self.width
        return self.keys[layer_idx][:, :, :width], self.values[layer_idx][:, :, :width]

    def _prefill(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        for store, new in ((self.keys, keys), (self.values, values)):
            buffer = new.new_zeros(*new.shape[:2], self.capacity, new.shape[3])
            buffer[:, :, : new.shape[2]] = new
            store.append(buffer)
        return keys, values

    @property
    def width(self) -> int:
        """Slots that the next decode step can see."""
        return self.get_seq_length() + 1

    def visible(self, window: int | None) -> Bool[Tensor, "rows 1 1 width"]:
        """What the token about to be written may attend to: its own past and itself."""
        slots = torch.arange(self.width, device=self.lengths.device)
        mask = slots <= self.lengths[:, None]
        if window is not None:
            mask &= slots > self.lengths[:, None] - window
        return mask[:, None, None]

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
