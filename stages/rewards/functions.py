"""Rewards that are Python functions: the verifiers, and `module:function` of the user's own."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.data.nearest import nearest
from stages.rewards.verifiers import VERIFIERS
from stages.trees import Tree

GIVEN = ("prompts", "completions")


def find_function(name: str) -> Callable[..., Any]:
    """The function that a name stands for: a verifier's name or `module:function`, imported from the project.

    Raises UserError where there is none, with the nearest name.
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise UserError(
            f"no verifier '{name}'{nearest(name, VERIFIERS)}, or name your own as module:function"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise UserError(
            f"cannot import '{module_name}' of '{name}': {type(error).__name__}: {error}"
        ) from error
    function = vars(module).get(function_name)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"'{module_name}' has no function '{function_name}'{nearest(function_name, functions)}"
        )
    return function


class FunctionReward:
    """Calls a function with what it names of: `prompts`, `completions` (as text) and the data's columns; with
    all of them if it takes `**columns`."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.function = find_function(name)
        self.tokenizer = tokenizer

    def __call__(self, examples: Sequence[Example], trees: Sequence[Tree]) -> list[float | None]:
        """One score per completion, in tree order; `examples[i]` belongs to `trees[i]`.

        Raises UserError where a column is missing or the result is not a number or None per completion.
        """
        pairs = list(zip(examples, trees, strict=True))
        owners = [example for example, tree in pairs for _ in tree.completions]
        ids = [completion.input_ids for _, tree in pairs for completion in tree.completions]
        columns = {
            name: [example.columns.get(name) for example in owners]
            for name in wanted_columns(self.name, self.function, examples)
        }
        given = {
            "prompts": [example.prompt for example in owners],
            "completions": self.tokenizer.batch_decode(ids, skip_special_tokens=True),
        }
        scores = self.function(**{name: given[name] for name in accepted(self.function)}, **columns)
        return self._checked(scores, len(ids))

    def _checked(self, scores: Any, expected: int) -> list[float | None]:
        try:
            scores = list(scores)
        except TypeError:
            raise UserError(f"reward '{self.name}' returned {type(scores).__name__}, not a list") from None
        if len(scores) != expected:
            raise UserError(f"reward '{self.name}' returned {len(scores)} scores for {expected} completions")
        return [None if score is None else self._number(score) for score in scores]

    def _number(self, score: Any) -> float:
        try:
            number = math.nan if isinstance(score, str) else float(score)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"reward '{self.name}' returned {score!r}, not a finite number or None")
        return number


def accepted(function: Callable[..., Any]) -> list[str]:
    """Which of prompts and completions the function takes: one that needs no prompt need not name it."""
    parameters = inspect.signature(function).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return [name for name in GIVEN if everything or name in parameters]


def wanted_columns(name: str, function: Callable[..., Any], examples: Sequence[Example]) -> list[str]:
    """The columns to call `function` with. Raises UserError where it requires one that no example has."""
    available = sorted({column for example in examples for column in example.columns} - set(GIVEN))
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return available
    named = [p for p in parameters if p.name not in GIVEN]
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in available:
            hint = nearest(parameter.name, available) if available else "; the data have no further columns"
            raise UserError(f"reward '{name}' needs the column '{parameter.name}'{hint}")
    return [p.name for p in named if p.name in available]
