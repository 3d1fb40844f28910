"""Functions of rewards: found by name, and called by the names of their parameters."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from stages.config.errors import UserError
from stages.data.nearest import nearest
from stages.rewards.verifiers import VERIFIERS

GIVEN = ("prompts", "completions")


def find_function(name: str) -> Callable[..., Any]:
    """The function that a name stands for: a verifier's name or `module:function`, imported from the project.

    Raises UserError where there is none (with the nearest name), and for one that cannot be called as rewards are.
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
    except (Exception, SystemExit) as error:  # the user's module may do anything while it is imported
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot import '{module_name}' of '{name}': {type(error).__name__}: {reason}"
        ) from error
    function = vars(module).get(function_name)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise UserError(
            f"'{module_name}' has no function '{function_name}'{nearest(function_name, functions)}"
        )
    _check_callable(name, function)
    return function


def _check_callable(name: str, function: Callable[..., Any]) -> None:
    if inspect.isclass(function):
        raise UserError(f"reward '{name}' is a class; name a function")
    inner = inspect.unwrap(function)
    bodies = (inner, vars(type(inner)).get("__call__"))  # of an object that is called, what is called
    if any(inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body) for body in bodies):
        raise UserError(f"reward '{name}' is async; write a plain function (asyncio.run inside it is fine)")
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise UserError(
            f"reward '{name}': its parameters cannot be read; wrap it in a function of your own"
        ) from None
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise UserError(
                f"reward '{name}' takes '{parameter.name}' by its place only, and is called by names: remove the '/'"
            )


def accepted(function: Callable[..., Any]) -> list[str]:
    """Which of prompts and completions the function takes: one that needs no prompt need not name it."""
    return [name for name in GIVEN if _takes_all(function) or name in _named(function)]


def wanted_columns(name: str, function: Callable[..., Any], available: Iterable[str]) -> list[str]:
    """The columns to call `function` with. Raises UserError where it requires one that is not there."""
    available = sorted(set(available) - set(GIVEN))
    for column in required_columns(function):
        if column not in available:
            hint = nearest(column, [*available, *GIVEN])
            raise UserError(f"reward '{name}' needs the column '{column}'{hint}")
    return [column for column in available if _takes_all(function) or column in _named(function)]


def required_columns(function: Callable[..., Any]) -> list[str]:
    """The columns without which the function cannot be called."""
    named = _named(function)
    return [name for name, p in named.items() if name not in GIVEN and p.default is p.empty]


def _takes_all(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _named(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name."""
    parameters = inspect.signature(function).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in parameters.items() if p.kind in kinds}


def line_of(function: Callable[..., Any], error: BaseException) -> str:
    """Where in the function's own file an error came from: ` (own.py, line 3)`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
