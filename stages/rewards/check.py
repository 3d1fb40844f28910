"""The rewards' part of the door: what can be known to be wrong before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from hydra.utils import get_class
from omegaconf import DictConfig

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.data.nearest import nearest
from stages.rewards.signature import find_function, required_columns, wanted_columns
from stages.rewards.verifiers import VERIFIERS, number_of_answer, score_answer

KNOWN = ("reward_model", "verifier")


class Row(Protocol):
    """What is asked of an example, or of a record that has yet to become one."""

    @property
    def columns(self) -> dict[str, Any]: ...
    @property
    def scores(self) -> list[float] | None: ...


# The rows of a role; None where they cannot be had yet.
Rows = Callable[[str], Iterable[Row] | None]


def check_rewards(weights: Mapping[str, float], verifier: str | None) -> None:
    """Raise UserError on an unknown reward, a function that cannot be imported or called, a verifier that is asked for
    and not there, a weight that is not a finite number, or rewards that all weigh nothing."""
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise UserError(f"reward '{name}' has the weight {weight}; give it a finite number")
        if weight == 0 or name == "reward_model":
            continue
        if name != "verifier":
            _check_function(name)
        elif verifier is None:
            raise UserError("the reward 'verifier' has a weight, but data.verifier is null: name a verifier")
    if weights and all(weight == 0 for weight in weights.values()):
        raise UserError("every reward has the weight 0: give one a weight")
    if verifier is not None:
        find_function(verifier)


def check_data(config: DictConfig, rows: Rows) -> None:
    """Raise UserError where a reward or the verifier needs a column that no prompt has, or no preference that it is to
    rank.

    Rows are read only where something is asked of them, and no further than to the answer.
    """
    verifier, algorithm = config.data.verifier, config.rl[config.rl.algo]
    used = [name for name, weight in algorithm.rewards.items() if weight and name not in KNOWN]
    if verifier and verifier not in VERIFIERS:  # of those, prepare says what they miss
        used.append(verifier)
    for name in used:
        _check_required(name, "prompt", rows)
    learns = get_class(algorithm._target_).offline or algorithm.rewards.get("reward_model", 0)
    if learns and any(row.scores is None for row in islice(rows("preference") or (), 1)):
        if not verifier:
            raise UserError(
                "data.preference has rows without preferences: set data.verifier, which ranks samples"
            )
        _check_required(verifier, "preference", rows)


def _check_required(name: str, role: str, rows: Rows) -> None:
    missing = set(required_columns(find_function(name)))
    found = rows(role) if missing else None
    if found is None:
        return
    seen: set[str] = set()
    for row in found:
        seen |= set(row.columns)
        if missing <= seen:
            return
    try:
        wanted_columns(name, find_function(name), seen)
    except UserError as error:
        raise UserError(f"data.{role}: {error}") from error


def check_columns(verifier: str | None, examples: Sequence[Example]) -> None:
    """Raise UserError where the verifier misses a column, or finds an answer that it cannot use."""
    if verifier is None or not examples:
        return
    function = find_function(verifier)
    for example in examples:
        columns = wanted_columns(verifier, function, example.columns)
        if verifier == "numeric":
            number_of_answer(example.columns["answer"])
        if verifier == "reasoning_gym":
            score_answer(example.columns["task"])
        if verifier in VERIFIERS and any(example.columns[column] is None for column in columns):
            raise UserError(
                f"data.verifier {verifier}: the row of prompt {example.prompt[:60]!r} has no answer"
            )


def _check_function(name: str) -> None:
    if ":" not in name:
        raise UserError(f"no reward '{name}'{nearest(name, KNOWN)}, or name your own as module:function")
    find_function(name)
