"""Columns that stand beside any prompt: a system message, earlier turns, tools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stages.data.messages import as_turn, to_text
from stages.data.parsers import Fields
from stages.data.records import BadRow, Message, Record
from stages.data.tools import is_empty, parse_json, to_tools

CONTEXT = ("system", "history", "tools")
SYSTEM_ROLES = ("system", "developer")


def with_context(record: Record, fields: Fields) -> Record:
    """The record with the context that its row brings. Raises BadRow where it has no place for it."""
    given = {name: fields[name] for name in CONTEXT if name in fields and not is_empty(fields[name])}
    if not given:
        return record
    if record.raw:
        names = " and ".join(f"'{name}'" for name in given)
        raise BadRow(f"plain text has no place for {names}: give the prompt a column of its own")
    prompt = as_turn(record.prompt, "user")
    if "history" in given:
        prompt = _after_system(prompt, _history(given["history"]))
    if "system" in given:
        prompt = _with_system(prompt, given["system"])
    completions = [as_turn(completion, "assistant") for completion in record.completions]
    tools = to_tools(given["tools"], "tools") if "tools" in given else []
    return replace(record, prompt=prompt, completions=completions, tools=tools)


def _with_system(prompt: list[Message], system: Any) -> list[Message]:
    if not isinstance(system, str):
        raise BadRow("'system' is not text")
    if not system.strip():
        return prompt
    if prompt and prompt[0]["role"] in SYSTEM_ROLES:
        if prompt[0]["content"].strip() == system.strip():
            return prompt
        raise BadRow("the column 'system' and the conversation's own system message differ")
    return [Message(role="system", content=system), *prompt]


def _history(value: Any) -> list[Message]:
    """Earlier turns: messages, or pairs of a question and its answer."""
    value = parse_json(value, "history") if isinstance(value, str) else value
    if not isinstance(value, list):
        raise BadRow("'history' is not a list of earlier turns")
    if all(isinstance(item, dict) for item in value):
        turns = to_text(value, "history")
        return turns if isinstance(turns, list) else []
    turns = []
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise BadRow("'history' holds an earlier turn that is no pair of a question and its answer")
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    return turns


def _after_system(prompt: list[Message], history: list[Message]) -> list[Message]:
    first = int(bool(prompt) and prompt[0]["role"] in SYSTEM_ROLES)
    return [*prompt[:first], *history, *prompt[first:]]
