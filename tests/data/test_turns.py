"""Messages in the spellings that files of the field use."""

from __future__ import annotations

from typing import Any

import pytest

from stages.data.records import BadRow
from stages.data.turns import to_message, unread_keys

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
THOUGHTFUL = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
READ = [
    ({"from": "human", "value": "q"}, {"role": "user", "content": "q"}),
    ({"from": "gpt", "value": "a"}, {"role": "assistant", "content": "a"}),
    ({"role": "prompter", "text": "q"}, {"role": "user", "content": "q"}),
    ({"role": "model", "content": "a"}, {"role": "assistant", "content": "a"}),
    ({"role": "User", "content": "q"}, {"role": "user", "content": "q"}),
    *(
        ({"role": role, "content": "22 C"}, {"role": "tool", "content": "22 C"})
        for role in ("function", "observation", "ipython", "function_response", "tool_response")
    ),
    *(
        ({"role": "assistant", "content": "a", key: "hm"}, THOUGHTFUL)
        for key in ("reasoning_content", "reasoning", "thinking")
    ),
    ({"role": "user", "content": [{"type": "text", "text": "q"}, {"text": "?"}]}, {"role": "user", "content": "q?"}),
    ({"role": "assistant", "content": [{"type": "text", "value": "a"}]}, {"role": "assistant", "content": "a"}),
    ({"role": "user", "content": "q", "tool_calls": None, "images": []}, {"role": "user", "content": "q"}),
    # calls: OpenAI's form with text or an object, its older one, ShareGPT's role, and without a wrapper
    *(
        (spelled, {"role": "assistant", "content": "", "tool_calls": [CALL]})
        for spelled in (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {
                "role": "assistant",
                "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}],
            },
            {"role": "assistant", "function_call": {"name": "weather", "arguments": '{"city": "Paris"}'}},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "parameters": {"city": "Paris"}}]},
        )
    ),
    (
        {"role": "tool", "content": "22", "name": "weather", "tool_call_id": "1"},
        {"role": "tool", "content": "22", "name": "weather", "tool_call_id": "1"},
    ),
    *(
        ({"role": "assistant", "content": "a", **no}, {"role": "assistant", "content": "a", "train": False})
        for no in ({"train": False}, {"weight": 0}, {"loss_weight": 0.0}, {"masked": True}, {"loss": "false"})
    ),
    *(
        ({"role": "assistant", "content": "a", **yes}, {"role": "assistant", "content": "a"})
        for yes in ({"train": True}, {"weight": 1.0}, {"masked": False}, {"train": None})
    ),
    ({"role": "user", "content": "q", "weight": 0}, {"role": "user", "content": "q"}),
]  # fmt: skip


@pytest.mark.parametrize(("item", "message"), READ)
def test_spellings_of_the_same_message(item: dict[str, Any], message: dict[str, Any]) -> None:
    assert to_message(item, "messages") == message
    assert to_message(message, "messages") == message


REFUSED = [
    ({"role": "assistant", "content": "a", "weight": 0.5}, "'weight' of 0.5"),
    ({"role": "user", "content": "q", "train": True}, "'train' .* for a message of 'user'"),
    ({"role": "assistant", "content": "a", "train": True, "weight": 0}, "train, weight contradict"),
    ({"role": "assistant", "content": "a", "refusal": "no"}, "'refusal'"),
    ({"role": "user", "content": "q", "images": ["1.jpg"]}, "'images'"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "a part of the type 'image_url'"),
    ({"role": "user", "content": {"a": 1}}, "has no text"),
    (
        {"role": "user", "content": "q", "reasoning": "hm"},
        "'reasoning_content' that is not an assistant's text",
    ),
    ({"role": "user", "content": "q", "tool_calls": [CALL]}, "'tool_calls' in a message of 'user'"),
    ({"role": "assistant", "content": "a", "value": "b"}, "content and value differ"),
    (
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]},
        "arguments of f' holds mal",
    ),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}, "arguments 3"),
    ({"role": "assistant", "tool_calls": [{"name": "f", "result": "22"}]}, "the unknown key 'result'"),
    ({"role": "assistant", "tool_calls": ["f"]}, "malformed JSON"),
]


@pytest.mark.parametrize(("item", "message"), REFUSED)
def test_what_cannot_be_used_is_named(item: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        to_message(item, "messages")


def test_keys_that_nothing_reads_are_known_and_empty_ones_say_nothing() -> None:
    item = {"role": "user", "content": "q", "lang": "en", "toxic": False, "parent": None, "tags": []}
    assert unread_keys(item) == {"lang", "toxic"}


ARGUMENTS = [
    ('{"a": "\\ud83d"}', "lone surrogate"),
    ("[" * 5000 + "]" * 5000, "malformed JSON"),
    ('{"a": NaN}', "NaN"),
    ('{"a": 1, "a": 2}', "twice"),
]


@pytest.mark.parametrize(("arguments", "reason"), ARGUMENTS)
def test_what_no_row_should_hold_is_found_in_the_text_of_a_call_too(arguments: str, reason: str) -> None:
    call = {"function": {"name": "weather", "arguments": arguments}}
    with pytest.raises(BadRow, match=reason):
        to_message({"role": "assistant", "content": "", "tool_calls": [call]}, "messages")
