"""The rewards' part of the door: what can be known to be wrong before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.data.nearest import nearest
from stages.rewards.functions import find_function, wanted_columns
from stages.rewards.verifiers import VERIFIERS, number_of_answer, score_answer

KNOWN = ("reward_model", "verifier")


def check_rewards(weights: Mapping[str, float], verifier: str | None) -> None:
    """Raise UserError on an unknown reward, a function that cannot be imported, a verifier that is asked for
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


def check_columns(verifier: str | None, examples: Sequence[Example]) -> None:
    """Raise UserError where the verifier misses a column, or finds an answer that it cannot use."""
    if verifier is None or not examples:
        return
    function = find_function(verifier)
    for example in examples:
        columns = wanted_columns(verifier, function, [example])
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
