"""The tokenizer's chat template as a function of messages: equal bytes on every day, any failure in one line."""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

from jinja2 import Environment, meta
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.nearest import nearest
from stages.data.records import BadRow, Message

# What a template asks the clock with, in transformers; the format is written out in every template that is known.
NOW = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(["'])(.*?)\1\s*\)""")
GENERATION = re.compile(
    r"{%-?\s*(end)?generation\s*-?%}"
)  # transformers' own tag, which plain Jinja does not know
# Given by whoever calls the template, not by its user.
GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenize"}

Tools = list[dict[str, Any]]


class Template:
    """Renders conversations. as_parts: contents as a list of parts; calls_as_text: a call's arguments as JSON text.

    Raises UserError where there is no template to use, or it does not know one of `kwargs`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kwargs: dict[str, Any], today: str) -> None:
        self.tokenizer, self.kwargs = tokenizer, kwargs
        self.as_parts = self.calls_as_text = False
        self.sources = {with_tools: _source(tokenizer, with_tools) for with_tools in (False, True)}
        self.dated = any("strftime_now(" in source for source in self.sources.values())
        self.sources = {
            key: _pinned(source, date.fromisoformat(today)) for key, source in self.sources.items()
        }
        _check_kwargs(kwargs, list(self.sources.values()))

    def render(self, messages: list[Message], tools: Tools, *, generate: bool) -> str:
        """The conversation as text, and where `generate`, up to where the answer begins. Raises BadRow."""
        try:
            text = self.tokenizer.apply_chat_template(
                [self._spelled(message) for message in messages],
                tools=tools or None,  # pyright: ignore[reportArgumentType]
                chat_template=self.sources[bool(tools)],
                tokenize=False,
                add_generation_prompt=generate,
                **self.kwargs,
            )
        except Exception as error:  # a template is a program, and may raise anything
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            kind = "" if type(error) is TemplateError else f"{type(error).__name__}: "
            raise BadRow(
                "the chat template refuses the conversation", f"the chat template says: {kind}{said}"
            ) from error
        return str(text)

    def _spelled(self, message: Message) -> dict[str, Any]:
        spelled: dict[str, Any] = {key: value for key, value in message.items() if key != "train"}
        if self.as_parts:
            spelled["content"] = [{"type": "text", "text": message["content"]}]
        if self.calls_as_text and "tool_calls" in message:
            spelled["tool_calls"] = [_as_text(call) for call in message["tool_calls"]]
        return spelled


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _source(tokenizer: PreTrainedTokenizerBase, with_tools: bool) -> str:
    try:
        return tokenizer.get_chat_template(tools=[] if with_tools else None)
    except ValueError as error:
        names = ", ".join(tokenizer.chat_template) if isinstance(tokenizer.chat_template, dict) else "none"
        raise UserError(
            f"the model's tokenizer has chat templates by name ({names}) and none is called 'default': name one of "
            "them so in its files, or set data.chat: never"
        ) from error


def _pinned(source: str, today: date) -> str:
    source = NOW.sub(lambda call: json.dumps(today.strftime(call[2])), source)
    if "strftime_now(" in source:
        raise UserError(
            "the model's chat template asks for today's date in a way that cannot be fixed to "
            "data.chat_template_date: write the date's format out in it"
        )
    return source


def _check_kwargs(kwargs: dict[str, Any], sources: list[str]) -> None:
    known = {name for source in sources for name in _variables(source)} - GIVEN
    for name in kwargs:
        if name in GIVEN:
            raise UserError(f"data.chat_template_kwargs: '{name}' is not for the config to set")
        if name not in known:
            raise UserError(
                f"data.chat_template_kwargs: the model's chat template reads no '{name}'{nearest(name, known)}"
            )


def _variables(source: str) -> set[str]:
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", source))
    except TemplateError as error:
        raise UserError(f"the model's chat template is not valid Jinja: {error}") from error
    return meta.find_undeclared_variables(tree)
