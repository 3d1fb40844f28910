"""A function that the config names by `_target_`, with settings of its own beside it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from stages.data.nearest import nearest

KEY = "_target_"
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def check_target(settings: Mapping[str, Any], positional: int, keywords: Sequence[str]) -> None:
    """Raise ValueError where `_target_` names no function, or one that cannot be called with `settings` beside what
    its caller gives: so many positional arguments, and these keywords; or where a setting is not of the type, or out of
    the range, that the function's annotation says."""
    target = settings.get(KEY)
    if not isinstance(target, str) or "." not in target:
        raise ValueError(f"{KEY} must name a function, as module.function")
    function = _find(*target.rsplit(".", 1))
    signature = inspect.signature(function)
    given = dict.fromkeys(keywords)
    own = {name: value for name, value in settings.items() if name != KEY}
    if twice := [name for name in own if name in given]:
        raise ValueError(f"leave out '{twice[0]}' here: {target} gets the one outside")
    free = [name for name in list(signature.parameters)[positional:] if name not in given]
    try:
        signature.bind(*[None] * positional, **given | own)
    except TypeError as error:
        unknown = [name for name in own if name not in free]
        hint = nearest(unknown[0], free) if unknown else ""
        raise ValueError(f"{target} cannot be called: {error}{hint}") from error
    _check_types(function, own)


def _check_types(function: Any, settings: Mapping[str, Any]) -> None:
    """Raise ValueError where a setting is not of the type that the function's signature gives, ranges included:
    `Annotated[float, Field(ge=0, lt=0.5)]`."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # a user's annotations may name what is only imported for a type checker
        return
    for name, value in settings.items():
        try:
            TypeAdapter(hints.get(name, Any), config=STRICT).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{name}: {error.errors()[0]['msg']} (it is {value!r})") from error


def _find(module: str, name: str) -> Any:
    try:
        found = vars(import_module(module))
    except Exception as error:  # a module of the user's own may raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot import {module}: {type(error).__name__}: {reason}") from error
    if not callable(found.get(name)):
        functions = [key for key, value in found.items() if inspect.isfunction(value)]
        raise ValueError(f"{module} has no function '{name}'{nearest(name, functions)}")
    return found[name]
