"""What is believed of a model is tried when it is loaded: its head, its masks, and that it reads from left to right.

What it can do is noted on its transformer, for the modules that run it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from stages.config.errors import UserError
from stages.models.flex import block_mask, eager_flex
from stages.models.hidden import backbone, masked_states, padded_states
from stages.models.trial import CANNOT, Trial, agree, evaluated, is_language_model, plain_outputs, some_ids
from stages.models.windows import with_narrow_windows

log = logging.getLogger(__name__)

ABILITIES = ("takes_trees", "takes_runs", "takes_blocks", "caches")
ATTEMPTS = range(5)  # with other tokens


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
    trials = [Trial(model, attempt) for attempt in ATTEMPTS]
    holds = partial(_holds, trials)
    try:
        plain_outputs(model, trials[0].packed.input_ids[0, :1])
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
    if not _holds(ATTEMPTS, partial(_reads_far, narrow)):
        raise _refused(model, "beyond its window what it gives for a token depends on those that follow")
    for ability in ABILITIES:
        setattr(body, ability, getattr(body, ability) and getattr(backbone(narrow), ability))


def _reads_far(model: Any, attempt: int) -> bool:
    """In a longer text: of equal keys a short one's order decides which are seen, and a long one's does not (Doge)."""
    ids = torch.tensor(some_ids(48, attempt), device=model.device)
    beginning = plain_outputs(model, ids[:24])
    return agree(plain_outputs(model, ids)[: len(beginning)], beginning)


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
    with eager_flex():
        return trial.agrees(masked_states(trial.body, trial.packed, partial(block_mask, trial.packed)))


def _holds(trials: Sequence[Any], check: Callable[[Any], bool]) -> bool:
    """In the first trial, or where that fails in all others but one: rounding may have chosen the other of two experts
    that are equally good."""
    first, *others = trials
    return _tried(check, first) or sum(_tried(check, trial) for trial in others) >= len(others) - 1


def _tried(check: Callable[[Any], bool], trial: Any) -> bool:
    try:
        return check(trial)
    except CANNOT as error:
        log.debug("%s: %s: %s", check, type(error).__name__, error)
        return False


def _refused(model: Any, reason: str) -> UserError:
    line = " ".join(reason.split())
    return UserError(f"model.path: {type(model).__name__} cannot be trained: {line}; take another model")
