"""Tools: what an assistant may call, and its calls, in OpenAI's form. All raise BadRow."""

from __future__ import annotations

from typing import Any

from stages.data import json_files
from stages.data.records import BadRow
from stages.data.unusable import first_unusable

CALL_KEYS = {"id", "type", "index", "function", "name", "arguments", "parameters"}


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, or an empty text, list or object. 0 and false say something."""
    return value is None or value in ("", [], {})


def to_tools(value: Any, name: str) -> list[dict[str, Any]]:
    """Definitions: a list of schemas, one by itself, as JSON text or not, with the wrapper `function` or without."""
    value = parse_json(value, name) if isinstance(value, str) else value
    return [_definition(item, name) for item in (value if isinstance(value, list) else [value])]


def to_calls(value: Any, name: str) -> list[dict[str, Any]]:
    """Calls: a list, one by itself, or their JSON text, with the wrapper `function` or without."""
    value = parse_json(value, name) if isinstance(value, str) else value
    return [_call(item, name) for item in (value if isinstance(value, list) else [value])]


def parse_json(text: str, name: str) -> Any:
    """What JSON text says; what no row should hold is found in it too."""
    try:
        value = json_files.parse_json(text)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"'{name}' holds malformed JSON", f"'{name}' holds malformed JSON: {error}") from error
    if found := first_unusable({name: value}):
        raise BadRow(f"'{name}' {found.reason}")
    return value


def _definition(item: Any, name: str) -> dict[str, Any]:
    item = parse_json(item, name) if isinstance(item, str) else item
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(
            f"'{name}' holds a tool without a name", f"'{name}' holds no tool definition: {item!r:.80}"
        )
    return item if "function" in item else {"type": "function", "function": item}


def _call(item: Any, name: str) -> dict[str, Any]:
    item = parse_json(item, name) if isinstance(item, str) else item
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"'{name}' has a tool call without a name", f"'{name}' has no tool call: {item!r:.80}")
    for key in (item.keys() | function.keys()) - CALL_KEYS:
        raise BadRow(f"'{name}' has a tool call with the unknown key '{key}'")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = parse_json(arguments, f"{name}, arguments of {function['name']}")
    if is_empty(arguments):
        arguments = {}
    if not isinstance(arguments, dict):
        raise BadRow(
            f"'{name}' has a tool call whose arguments are no object",
            f"'{name}': arguments {arguments!r:.80}",
        )
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": str(item["id"]), **call} if not is_empty(item.get("id")) else call
