"""Columns that no format reads: refused where they say something, reported where they do not."""

from __future__ import annotations

from typing import Any

import pytest

from stages.data.records import BadRow, Record, Row
from stages.data.unread import refuse_unread
from stages.data.usage import Usage, columns_line

NONE = frozenset[str]()
LOST = [
    ("images", ["1.jpg"], {"sft", "preference", "prompt"}),
    ("audio", {"path": "a.wav"}, {"sft", "preference", "prompt"}),
    ("context", "The moon is far.", {"sft", "preference", "prompt"}),
    ("tools", [{"name": "f"}], {"sft", "preference", "prompt"}),
    ("chat_template_kwargs", {"enable_thinking": False}, {"sft", "preference", "prompt"}),
    ("label", 0, {"sft", "preference"}),
    ("score", 0.0, {"sft", "preference"}),
    ("rejected", "b", {"sft", "preference"}),
    ("weight", 0.5, {"sft", "preference"}),
    ("weight", 1, set()),
    ("images", [], set()),
    ("label", None, set()),
    ("id", 7, set()),
]


@pytest.mark.parametrize(("name", "value", "roles"), LOST)
def test_what_would_be_lost_is_refused_by_name(name: str, value: Any, roles: set[str]) -> None:
    record = Record("p", ["c"], columns={name: value})
    for role in ("sft", "preference", "prompt"):
        if role in roles:
            with pytest.raises(BadRow, match=rf"the column '{name}' would be lost .* data\.{role}\.ignore"):
                refuse_unread(role, "text", record, NONE)
        else:
            refuse_unread(role, "text", record, NONE)
        refuse_unread(role, "text", record, frozenset({name}))


def test_what_became_of_each_column() -> None:
    usage = Usage()
    row = Row({"messages": [{"role": "user", "content": "q", "lang": "en"}], "id": 1}, "a.jsonl, line 1")
    usage.see(row, Record("p", [], columns={"id": 1}, read=frozenset({"messages"})))
    sft, prompt = usage.describe("sft", verified=False), usage.describe("prompt", verified=True)
    assert (sft["read"], sft["kept_for_rewards"], sft["ignored"]) == (["messages"], [], ["id"])
    assert (prompt["kept_for_rewards"], prompt["ignored"]) == (["id"], [])
    assert columns_line(sft) == (
        "columns read: messages; kept for rewards: none; ignored: id (sft has no rewards that could read them); "
        "keys of messages that nothing reads: lang"
    )
