"""Whether a chat template writes what the messages say: some skip roles, thoughts, or texts beside a call."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from stages.data.records import BadRow, Message
from stages.data.template import Tools

SYSTEM_ROLES = ("system", "developer")  # some templates move what these say
TAGS = re.compile(r"</?think>|/no_think|/think")  # templates read these, and write them in their own way
Render = Callable[[list[Message], Tools], str]


class Marker(NamedTuple):
    """A word that stands for a value of a message, or of the tools where `index` is None."""

    word: str
    index: int | None
    key: str


class Written:
    """Looks for every text in what a template made of it; and once per shape of a dialogue, with words in place of its
    texts, so that one is not taken for another. render: a dialogue up to the end of its last answer, or up to where
    an answer begins."""

    def __init__(self, render: Render) -> None:
        self.render = render
        self.shapes: dict[Any, BadRow | None] = {}

    def check(self, text: str, messages: list[Message], tools: Tools, targets: Collection[int]) -> None:
        """Raises BadRow where `text`, what the template made, lacks something. The thoughts of messages that are no
        targets may be missing: templates leave them out of what lies behind."""
        shape = (shape_of(messages), len(tools), frozenset(targets))
        if shape not in self.shapes:
            self.shapes[shape] = self._problem(messages, tools, targets)
        if problem := self.shapes[shape]:
            raise problem
        _find_texts(text, messages, targets)

    def _problem(self, messages: list[Message], tools: Tools, targets: Collection[int]) -> BadRow | None:
        marked, marked_tools, markers = mark(messages, tools)
        text = self.render(marked, marked_tools)
        for word, index, key in markers:
            if word in text or (index is not None and index not in targets and key == "reasoning_content"
                                and word in self.render(marked[: index + 1], marked_tools)):  # fmt: skip
                continue
            owner = f" of '{messages[index]['role']}'" if index is not None else ""
            beside = (
                " beside its tool_calls" if index is not None and _lost_beside(messages[index], key) else ""
            )
            lost = f"the chat template does not write '{key}'{owner}{beside}"
            return BadRow(lost, f"{lost}, so the model would never see it")
        return None


def shape_of(messages: list[Message]) -> tuple[Any, ...]:
    """All of a dialogue on which its rendering depends, but for the texts."""
    return tuple(
        (m["role"], bool(m["content"].strip()), "</think>" in m["content"], *_extras(m)) if len(m) > 2
        else (m["role"], bool(m["content"].strip()), "</think>" in m["content"])
        for m in messages
    )  # fmt: skip


def mark(messages: list[Message], tools: Tools) -> tuple[list[Message], Tools, list[Marker]]:
    """The dialogue with words in place of its texts, and the words."""
    markers: list[Marker] = []

    def word(index: int | None, key: str) -> str:
        markers.append(Marker(f"zq{len(markers)}qz", index, key))
        return markers[-1].word

    marked_tools = [_marked_tool(word(None, "tools")) for _ in tools]
    marked: list[Message] = []
    for index, message in enumerate(messages):
        own = message.copy()
        if "reasoning_content" in own:
            own["reasoning_content"] = word(index, "reasoning_content")
        if own["content"].strip():
            thought = (
                f"<think>\n{word(index, 'reasoning_content')}\n</think>\n\n"
                if "</think>" in own["content"]
                else ""
            )
            own["content"] = thought + word(index, "content")
        if "name" in own and own["role"] != "tool":  # a tool's name says again what was called
            own["name"] = word(index, "name")
        if "tool_calls" in own:
            own["tool_calls"] = [_marked_call(call, index, word) for call in own["tool_calls"]]
        marked.append(own)
    return marked, marked_tools, markers


def thought_of(message: Message) -> str:
    """What an assistant thought before it answered, by the key for it or within its text."""
    inline = message["content"].rpartition("</think>")[0].rpartition("<think>")[2]
    return (message.get("reasoning_content") or inline).strip()


def _extras(message: Message) -> tuple[Any, ...]:
    return ("reasoning_content" in message, "name" in message, len(message.get("tool_calls", ())))


def _lost_beside(message: Message, key: str) -> bool:
    return key in ("content", "reasoning_content") and "tool_calls" in message


def _marked_tool(word: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"x": {"type": "string", "description": "x"}},
        "required": ["x"],
    }
    return {"type": "function", "function": {"name": word, "description": word, "parameters": parameters}}


def _marked_call(call: dict[str, Any], index: int, word: Callable[[int | None, str], str]) -> dict[str, Any]:
    arguments = {"x": word(index, "tool_calls")} if call["function"]["arguments"] else {}
    return {**call, "function": {"name": word(index, "tool_calls"), "arguments": arguments}}


def _find_texts(text: str, messages: list[Message], targets: Collection[int]) -> None:
    behind = 0
    for index, message in enumerate(messages):
        for piece in _pieces(message, index in targets):
            begin = 0 if message["role"] in SYSTEM_ROLES else behind
            found = text.find(piece, begin)
            if found < 0 and message["role"] == "tool":  # Llama 3 writes a tool's answer as JSON
                piece = json.dumps(piece, ensure_ascii=False)[1:-1]
                found = text.find(piece, begin)
            if found < 0:
                lost = f"the chat template leaves out what a message of '{message['role']}' says"
                raise BadRow(lost, f"{lost}: {piece[:60]!r}")
            if message["role"] not in SYSTEM_ROLES:
                behind = found + len(piece)


def _pieces(message: Message, is_target: bool) -> list[str]:
    content = message["content"]
    thought = message.get("reasoning_content", "")
    if not thought and "think" not in content:
        return [content.strip()]
    before, _, after = content.rpartition("</think>")
    said = [thought, before, after] if is_target else [after]
    return [piece.strip() for part in said for piece in TAGS.split(part) if piece.strip()]
