"""A row in canonical form, before it is tokens: a prompt, its completions, and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict


class Message(TypedDict):
    """One turn of a conversation, in the keys that chat templates read.

    tool_calls: in OpenAI's form, their arguments as objects. train: there, and False, where an assistant turn is no
    target; no template sees it.
    """

    role: str
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    train: NotRequired[bool]


Text = str | list[Message]


class LeftOut(Exception):
    """A row that cannot be used in this role; report.json counts it under `reason`, and the stage goes on."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class BadRow(LeftOut):
    """A row that somebody got wrong. It stops the stage, unless data.bad_rows says to drop such rows."""


@dataclass(frozen=True)
class Row:
    """A row as it was read, and where: `train.jsonl, line 17`. bad: why it cannot be used, whatever its columns are.

    prompt_from: where a template wrote the prompt, the row's own columns that it read or replaced; else None.
    """

    values: dict[str, Any]
    where: str
    bad: str = ""
    prompt_from: frozenset[str] | None = None


@dataclass(frozen=True)
class Record:
    """A prompt and its completions, all plain (str) or all conversational (messages).

    raw: text that continues the prompt as it stands, which a chat template must not wrap.
    scores: one per completion, or None.
    tools: what an assistant may call, as JSON schemas; chat templates write them.
    columns: the row's columns that its format does not use.
    used: columns that became completions and scores, under their own names; the prompt role keeps them.
    read: the names of all columns that its format used, or a template for its prompt.
    where: file and line, for errors.
    """

    prompt: Text
    completions: list[Text]
    scores: list[float] | None = None
    raw: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    used: dict[str, Any] = field(default_factory=dict)
    read: frozenset[str] = frozenset()
    where: str = ""

    @property
    def conversational(self) -> bool:
        return isinstance(self.prompt, list)

    @property
    def opening(self) -> str:
        """What hold-outs go by: the first user turn, for dialogues come back at several depths."""
        if isinstance(self.prompt, list):
            return next((m["content"] for m in self.prompt if m["role"] == "user"), "").strip()
        return (self.prompt or str(self.completions[0])).strip()
