"""Conversations: their spellings, and the checks that a chat template relies on."""

from __future__ import annotations

import json
import re
from typing import Any

from stages.data.records import BadRow, Message, Text

ROLES = {"system", "developer", "user", "assistant", "tool"}
# ShareGPT's spelling of the same thing.
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}
TURN = re.compile(r"\n\n(Human|Assistant):")
TRANSCRIPT = re.compile(r"\A\s*\n\nHuman:")


def to_text(value: Any, name: str) -> Text:
    """A plain string, or messages: from a list, from JSON in a cell, or from a Human/Assistant transcript.

    Raises BadRow where the value is none of these, or is empty.
    """
    if isinstance(value, str):
        if TRANSCRIPT.match(value):
            return parse_transcript(value)
        if re.match(r'\A\s*\[\s*\{\s*"(role|from)"', value):
            return to_text(_parse_cell(value, name), name)
        if not value.strip():
            raise BadRow(f"'{name}' is empty")
        return value
    if isinstance(value, list):
        return [_to_message(item, name) for item in value] or _fail(f"'{name}' is empty")
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
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise BadRow(f"'{name}' holds malformed JSON", f"'{name}' holds malformed JSON: {error}") from error


def _to_message(item: Any, name: str) -> Message:
    if not isinstance(item, dict):
        _fail(f"'{name}' holds a message that is not an object with 'role' and 'content'")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    role = SHAREGPT_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise BadRow(
            f"'{name}' has an unknown role", f"'{name}' has the role {role!r}; known are {sorted(ROLES)}"
        )
    if not isinstance(content, str) or (role == "assistant" and not content.strip()):
        raise BadRow(f"'{name}' has a message without text", f"'{name}': the message of {role!r} has no text")
    return Message(role=role, content=content)


def _fail(reason: str) -> Any:
    raise BadRow(reason)
