"""What is believed of a model is tried when it is loaded: its head, its masks, and that it reads from left to right.

Each trial compares with the model's own forward of one plain sequence at a time. What it can do is noted on its
transformer, for the modules that run it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationConfig

from stages.config.errors import UserError
from stages.models.flex import block_mask, eager_flex
from stages.models.head import lm_head
from stages.models.hidden import backbone, masked_states, padded_states, unpack_rows
from stages.models.windows import with_narrow_windows
from stages.packing import pack
from stages.trees import Node, Tree

log = logging.getLogger(__name__)

# What a family's code may raise where it is handed what it does not know.
CANNOT = (
    AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
ABILITIES = ("takes_trees", "takes_runs", "takes_blocks", "caches")
FIRST = (
    5  # of the ids that are tried: every vocabulary has them, and in most those before it are special ones
)
TRIALS, ENOUGH = 4, 3


class Trial:
    """Trees whose sequences reach beyond a narrow window; the second sequence is the beginning of the first."""

    def __init__(self, model: Any, attempt: int) -> None:
        self.model, self.body = model, backbone(model)
        # powers of 3 modulo 29 look random, and some of these tokens occur more than once, as in any text
        ids = [FIRST + pow(3, place + 5 * attempt, 29) % 13 for place in range(23)]
        trees = [_tree(ids[:2], ids[2:11], ids[2:6]), _tree([ids[0], *ids[12:16]], ids[16:])]
        self.packed = pack(trees, model.device)
        self.in_runs = replace(self.packed, runs=torch.tensor([1, len(trees[0]), sum(map(len, trees)) - 1]))
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
            output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        prompt = self.packed.input_ids.flatten()[self.rows[1]]
        found = self.model.generate(prompt[None], generation_config=config)
        expected = plain_outputs(self.model, found.sequences[0, :-1])
        return agree(torch.cat(found.logits), expected[-2:])


def probe(model: Any) -> None:
    """Find out, by trying, how `model` can be run; call once after loading. Raises UserError where it cannot.

    Packed trees need attention that takes a mask, and positions that are given. Models with a recurrent state (Mamba,
    linear attention), with positions derived from the mask (ALiBi) or with windows that are not ours (GPT-Neo, Llama 4)
    run on padded rows, with the same result at a higher cost. What is wrong there too is refused.
    """
    body: Any = backbone(model)
    name = type(model).__name__
    with torch.no_grad(), evaluated(model):
        _examine(model)
        _examine_beyond_windows(model)
    if not body.takes_trees:
        log.warning("%s takes no tree mask: it runs on padded rows (same result, slower)", name)
    elif torch.cuda.is_available() and not body.takes_blocks:
        log.info("%s takes no block mask: long rows take dense ones (same result, slower)", name)


def _examine(model: Any) -> None:
    """Note on the transformer what can be done with it. Raises UserError where that is not enough."""
    body: Any = backbone(model)
    first, *others = (Trial(model, attempt) for attempt in range(1 + TRIALS))

    def holds(check: Callable[[Trial], bool]) -> bool:
        """Where the first trial fails, rounding may have chosen the other of two experts that are equally good."""
        return _tried(check, first) or sum(_tried(check, trial) for trial in others) >= ENOUGH

    try:
        plain_outputs(model, first.packed.input_ids[0, :1])
    except CANNOT as error:
        raise _refused(model, f"its own forward of plain text fails: {error}") from error
    if not holds(Trial.reads_forward):
        raise _refused(model, "it sees the tokens that follow")
    body.own_head = False
    if not holds(_padded):
        body.own_head = True
        if not holds(_padded):
            raise _refused(
                model, "the log-probabilities of its own forward cannot be had from its hidden states"
            )
    body.caches = is_language_model(model) and holds(_generates)
    if is_language_model(model) and not (body.caches or holds(_generates_without_cache)):
        raise _refused(model, "its generate() does not follow from its forward")
    cpu = model.device.type == "cpu"
    body.takes_trees = holds(_packed)
    body.takes_runs = body.takes_trees and cpu and holds(_in_runs)
    with eager_flex():
        body.takes_blocks = body.takes_trees and torch.cuda.is_available() and holds(_in_blocks)


def _examine_beyond_windows(model: Any) -> None:
    """The same with windows of a few tokens; what cannot be tried there is not done."""
    body: Any = backbone(model)
    try:
        narrow = with_narrow_windows(model)
        if narrow is None:
            return
        with evaluated(narrow):
            Trial(narrow, 0).expected  # noqa: B018
    except CANNOT as error:
        log.debug("windows of %s cannot be narrowed: %s", type(model).__name__, error)
        body.takes_trees = body.takes_runs = body.takes_blocks = False
        return
    _examine(narrow)
    for ability in ABILITIES:
        setattr(body, ability, getattr(body, ability) and getattr(backbone(narrow), ability))


def _generates(trial: Trial) -> bool:
    return trial.generates(use_cache=True)


def _generates_without_cache(trial: Trial) -> bool:
    return trial.generates(use_cache=False)


def _padded(trial: Trial) -> bool:
    return trial.agrees(padded_states(trial.body, trial.packed))


def _packed(trial: Trial) -> bool:
    return trial.agrees(masked_states(trial.body, trial.packed, trial.packed.attention_mask))


def _in_runs(trial: Trial) -> bool:
    return trial.agrees(masked_states(trial.body, trial.in_runs, trial.in_runs.attention_mask))


def _in_blocks(trial: Trial) -> bool:
    return trial.agrees(masked_states(trial.body, trial.packed, partial(block_mask, trial.packed)))


def _tried(check: Callable[[Trial], bool], trial: Trial) -> bool:
    try:
        return check(trial)
    except CANNOT as error:
        log.debug("%s: %s: %s", check.__name__, type(error).__name__, error)
        return False


def _refused(model: Any, reason: str) -> UserError:
    line = " ".join(reason.split())
    return UserError(f"model.path: {type(model).__name__} cannot be trained, for {line}; take another model")


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
    return hasattr(model, "generate") and model.get_output_embeddings() is not None


def plain_outputs(model: Any, ids: Int[Tensor, " length"]) -> Float[Tensor, "length outputs"]:
    """Of the model's own forward of one sequence: its logits, or where its head is no language model's, its states."""
    if is_language_model(model):
        return model(input_ids=ids[None], use_cache=False).logits[0]
    return backbone(model)(input_ids=ids[None], use_cache=False).last_hidden_state[0]


def agree(found: Tensor, expected: Tensor) -> bool:
    """To rounding, which is 1e-6 of what numbers differ by in float32; another mask or head moves them by a tenth.
    Logits are compared as log-probabilities."""
    found, expected = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (found, expected))
    finite = expected.isfinite()
    close = 4 * torch.finfo(expected.dtype).eps ** 0.5 * float(expected[finite].std())
    return torch.equal(finite, found.isfinite()) and bool(((found - expected)[finite].abs() <= close).all())


def _tree(prompt: Sequence[int], *completions: Sequence[int]) -> Tree:
    nodes = [Node(list(ids), [True] * len(ids)) for ids in completions]
    return Tree(Node(list(prompt), [False] * len(prompt)), nodes)
