"""A few short texts, and how what is computed for them is compared with the model's own plain forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig

from stages.models.head import lm_head
from stages.models.hidden import backbone, unpack_rows, without_adapters
from stages.packing import SHARED, pack
from stages.trees import Node, Tree

# What a family's code may raise where it is handed what it does not know.
CANNOT = (
    AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
# Of the ids that are tried: every vocabulary has them, and in most those before it are special ones.
FIRST = 5


class Trial:
    """Trees whose sequences reach beyond a narrow window; the second sequence is the beginning of the first."""

    def __init__(self, model: Any, attempt: int) -> None:
        self.model, self.body = model, backbone(model)
        ids = some_ids(23, attempt)
        trees = [_tree(ids[:2], ids[2:11], ids[2:6]), _tree([ids[0], *ids[12:16]], ids[16:])]
        self.packed = pack(trees, model.device)
        shared = int((self.packed.tree == SHARED).sum())  # one token at least, by chance more
        bounds = [shared, len(trees[0]), sum(map(len, trees)) - shared]
        self.in_runs = replace(self.packed, runs=torch.tensor(bounds))
        self.rows, _ = unpack_rows(self.packed)

    @cached_property
    def expected(self) -> list[Tensor]:
        """What the model's own forward gives for each sequence alone."""
        ids = self.packed.input_ids.flatten()
        return [plain_outputs(self.model, ids[row]) for row in self.rows]

    def reads_forward(self) -> bool:
        """What is given for a token does not depend on those that follow."""
        whole, beginning, _ = self.expected
        return agree(whole[: len(beginning)], beginning)

    def agrees(self, states: Float[Tensor, "cells hidden"]) -> bool:
        cells = torch.tensor([cell for row in self.rows for cell in row], device=states.device)
        found = states.index_select(0, cells)
        if is_language_model(self.model):
            found = lm_head(self.model, found)
        return agree(found, torch.cat(self.expected))

    def generates(self, *, use_cache: bool) -> bool:
        """Two tokens by transformers' own generate, the second from the cache of the first."""
        config = GenerationConfig(
            max_new_tokens=2, min_new_tokens=2, do_sample=False, num_beams=1, pad_token_id=0, use_cache=use_cache,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        prompt = self.packed.input_ids.flatten()[self.rows[1]]
        found = self.model.generate(prompt[None], generation_config=config)
        expected = plain_outputs(self.model, found.sequences[0, :-1])
        return agree(torch.cat(found.logits), expected[-2:])


def some_ids(count: int, attempt: int) -> list[int]:
    """Powers of 3 modulo 29 look random; some of these tokens occur more than once, as in any text."""
    return [FIRST + pow(3, place + 5 * attempt, 29) % 13 for place in range(count)]


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in evaluation, as it is run everywhere but under gradient checkpointing."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def is_language_model(model: Any) -> bool:
    """Whether it gives logits over a vocabulary; a classifier gives what its head makes of one token's state."""
    return without_adapters(model).can_generate()


def plain_outputs(model: Any, ids: Int[Tensor, " length"]) -> Float[Tensor, "length outputs"]:
    """Of the model's own forward of one sequence: its logits, or where its head is no language model's, its states."""
    if is_language_model(model):
        return model(input_ids=ids[None], use_cache=False).logits[0]
    return backbone(model)(input_ids=ids[None], use_cache=False).last_hidden_state[0]


def agree(found: Tensor, expected: Tensor) -> bool:
    """To the rounding of the narrower of the two, which in float32 moves numbers by 1e-6 of what they differ by among
    each other; another mask or head moves them by a tenth."""
    eps = max(torch.finfo(each.dtype).eps for each in (found, expected))
    found, expected = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (found, expected))
    finite = expected.isfinite()
    close = 4 * eps**0.5 * float(expected[finite].std())
    return torch.equal(finite, found.isfinite()) and bool(((found - expected)[finite].abs() <= close).all())


def _tree(prompt: Sequence[int], *completions: Sequence[int]) -> Tree:
    nodes = [Node(list(ids), [True] * len(ids)) for ids in completions]
    return Tree(Node(list(prompt), [False] * len(prompt)), nodes)
