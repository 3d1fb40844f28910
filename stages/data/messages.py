"""Conversations, out of lists of messages, JSON in a cell, and transcripts."""

from __future__ import annotations

import re
from typing import Any

from stages.data.records import BadRow, Message, Text
from stages.data.tools import parse_json
from stages.data.turns import CALL_KEYS, ROLE_KEYS, TEXT_KEYS, to_message, unread_keys

TURN = re.compile(r"\n\n(Human|Assistant):")
TRANSCRIPT = re.compile(r"\A\s*\n\nHuman:")
# What may be messages in a cell, whatever their first key; what nothing else would begin with; what Python prints.
CELL = re.compile(r'\A\s*\[?\s*\{\s*"\w+"\s*:')
SURELY = re.compile(r'\A\s*\[?\s*\{\s*"(role|from|content|value)"\s*:')
REPR = re.compile(r"\A\s*\[?\s*\{\s*'\w+'\s*:")
REPR_ROLE, REPR_TEXT = re.compile(r"'(role|from)'\s*:"), re.compile(r"'(content|value)'\s*:")


def to_text(value: Any, name: str) -> Text:
    """A plain string, or messages: from a list, from JSON in a cell, or from a Human/Assistant transcript.

    Raises BadRow where the value is none of these, or is empty.
    """
    if isinstance(value, str):
        if TRANSCRIPT.match(value):
            return parse_transcript(value)
        if CELL.match(value) and (found := _parse_cell(value, name)) is not None:
            return to_text(found, name)
        if REPR.match(value) and REPR_ROLE.search(value) and REPR_TEXT.search(value):
            detail = f"'{name}' holds what Python prints for messages, not JSON: write it with json.dumps"
            raise BadRow(f"'{name}' holds messages that are not JSON", detail)
        if not value.strip():
            raise BadRow(f"'{name}' is empty")
        return value
    if isinstance(value, list):
        return [to_message(item, name) for item in value] or _fail(f"'{name}' is empty")
    if isinstance(value, dict):  # a message by itself
        return [to_message(value, name)]
    if value is None:
        raise BadRow(f"'{name}' is empty")
    raise BadRow(
        f"'{name}' is neither text nor messages", f"'{name}' is {type(value).__name__}, not text or messages"
    )


def is_transcript(value: Any) -> bool:
    """Whether a string is a dialogue as Anthropic's HH-RLHF spells it."""
    return isinstance(value, str) and TRANSCRIPT.match(value) is not None


def parse_transcript(text: str) -> list[Message]:
    """The dialogue `\\n\\nHuman: ...\\n\\nAssistant: ...` as messages (Bai et al. 2022, HH-RLHF).

    A turn that is split over two labels of one role is joined, for chat templates want roles to alternate.
    An empty last assistant turn is left out: it is where a prompt ends.
    """
    pieces = TURN.split(text)
    messages: list[Message] = []
    for label, content in zip(pieces[1::2], pieces[2::2], strict=True):
        role = "user" if label == "Human" else "assistant"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content.strip()}".strip()
        else:
            messages.append(Message(role=role, content=content.strip()))
    if messages[-1] == Message(role="assistant", content=""):
        messages.pop()
    return messages


def like_messages(value: Any) -> bool:
    """Whether a value is a list of objects that each have a role and a key for what is said."""
    keys = (
        [item.keys() if isinstance(item, dict) else set() for item in value]
        if isinstance(value, list)
        else []
    )
    said = (*TEXT_KEYS, *CALL_KEYS)
    return bool(keys) and all(
        any(k in own for k in ROLE_KEYS) and any(k in own for k in said) for own in keys
    )


def unread_in(value: Any) -> set[str]:
    """Keys of a value's messages that say something and that nothing reads; other objects hold none."""
    if isinstance(value, str):
        value = _parse_cell(value, "") if CELL.match(value) else None
    items = value if isinstance(value, list) else [value]
    return {key for item in items for key in unread_keys(item)} if like_messages(items) else set()


def as_turn(text: Text, role: str) -> list[Message]:
    """Messages as they are; a plain string as one turn of the given role."""
    return [Message(role=role, content=text)] if isinstance(text, str) else text


def show(text: Text) -> str:
    """A prompt for people to read: a lone user turn as its text, a dialogue with its roles."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return text[0]["content"]
    return "\n\n".join(f"{m['role'].capitalize()}: {m['content']}" for m in text)


def _parse_cell(value: str, name: str) -> Any:
    """The messages in a cell; None where it holds something else, which is text like any other."""
    try:
        found = parse_json(value, name)
    except BadRow:
        if SURELY.match(value) and ('"role"' in value or '"from"' in value):
            raise
        return None
    return found if like_messages(found if isinstance(found, list) else [found]) else None


def _fail(reason: str) -> Any:
    raise BadRow(reason)
