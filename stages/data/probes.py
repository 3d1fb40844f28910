"""Small conversations that show how a chat template wants to be given what messages say."""

from __future__ import annotations

import json

from stages.data.records import BadRow, Message
from stages.data.template import Template
from stages.data.turntexts import TurnTexts

PROBE = [Message(role="user", content="one"), Message(role="assistant", content="two")]
THINKING = [PROBE[0], Message(role="assistant", content="two", reasoning_content="three")]
# Mistral's templates take ids of nine letters alone.
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "four", "arguments": {"five": "six"}}}
CALLED = [PROBE[0], Message(role="assistant", content="", tool_calls=[CALL])]


def fit_forms(template: Template) -> None:
    """Gives contents as parts, and arguments as text, where the template writes them in that form alone.

    Raises BadRow where it writes a conversation in neither form.
    """
    if not _writes(template, PROBE, "one", "two"):
        template.as_parts = True
        if not _writes(template, PROBE, "one", "two"):
            template.as_parts = False
            template.render(PROBE, [], generate=False)  # where it fails, it says why
            raise BadRow("it does not write what the messages say")
    # An object that is pasted into text comes out as Python prints it; one that is added to text is a TypeError.
    template.calls_as_text = not _writes(template, CALLED, "five", "six") or _writes(
        template, CALLED, "'five'"
    )
    if template.calls_as_text and not _writes(template, CALLED, json.dumps({"five": "six"})):
        template.calls_as_text = False


def choose_probe(texts: TurnTexts) -> list[Message]:
    """The conversation that checks are made on: with a thought, where answers must begin with one. Raises BadRow."""
    try:
        texts.whole(PROBE, [])
    except BadRow as error:
        try:
            texts.whole(THINKING, [])
        except BadRow:
            raise error from None
        return THINKING
    return PROBE


def _writes(template: Template, messages: list[Message], *words: str) -> bool:
    try:
        text = template.render(messages, [], generate=False)
    except BadRow:
        return False
    return all(word in text for word in words)
