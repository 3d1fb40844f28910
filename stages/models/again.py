"""Tensors that a backward makes again, instead of keeping them from the forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


class _Again:
    """Makes a tensor for the first of its readers, and has it until the last has read it."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make
        self.readers = self.left = 0
        self.made: Tensor | None = None

    def read(self) -> Tensor:
        found = self.make() if self.made is None else self.made
        self.left = (self.left or self.readers) - 1
        self.made = found if self.left else None
        return found


def made_again(tensor: Tensor, make: Callable[[], Tensor]) -> AbstractContextManager[Any]:
    """Where an operation in this context would keep all of `tensor` for its backward, in whatever shape, that calls
    `make` instead, which must give the same bits. `tensor` is known by its address, so it must live as long as the
    context. Under gradient checkpointing nothing happens: what is kept is not ours to say there."""
    # torch, which is pinned, has no public name for this
    hooked = torch._C._autograd._top_saved_tensors_default_hooks(False)  # type: ignore[attr-defined]
    if hooked or not tensor.requires_grad or not tensor.is_contiguous():
        return nullcontext()
    place, size, dtype = tensor.data_ptr(), tensor.numel(), tensor.dtype
    again = _Again(make)

    def pack(saved: Tensor) -> Any:
        alike = saved.data_ptr() == place and (saved.numel(), saved.dtype) == (size, dtype)
        if not (alike and saved.is_contiguous()):  # undetached, an operation's own output would be a cycle
            return saved if saved.is_leaf else saved.detach()
        again.readers += 1
        return again, saved.shape

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[0].read().view(kept[1])

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
