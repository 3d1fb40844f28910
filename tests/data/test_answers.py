"""Answers that a verifier cannot judge are bad rows; a column that no row has is a wrong setting."""

from __future__ import annotations

from typing import Any

import pytest

from stages.data.answers import answer_check
from stages.data.records import BadRow, Record

OTHER = Record("q", [], columns={"answer": "3", "task": "chain_sum", "metadata": {}})


def check(verifier: str | None, columns: dict[str, Any], completions: Any = ()) -> None:
    record = Record("q", list(completions), columns=columns)
    answer_check(verifier, [OTHER, record])(record)


GYM = {"answer": "3", "task": "chain_sum", "metadata": {}}
REFUSED = [
    (
        "numeric",
        {"answer": "3:30"},
        "column 'answer': the answer '3:30' is not one number; .* 'exact' compares text",
    ),
    ("numeric", {"answer": [3]}, "column 'answer': the answer .* is list"),
    ("numeric", {"answer": None}, "no 'answer', which data.verifier 'numeric' reads"),
    ("numeric", {}, "no 'answer', which data.verifier 'numeric' reads"),
    ("exact", {"answer": " "}, "column 'answer': the answer is empty"),
    ("exact", {"answer": {"value": 3}}, "column 'answer': the answer is dict, not text"),
    ("reasoning_gym", GYM | {"task": "chain_summ"}, "column 'task': reasoning_gym has no task 'chain_summ'"),
    ("reasoning_gym", GYM | {"metadata": "{}"}, "column 'metadata': it is str, not an object"),
    ("reasoning_gym", {"answer": "3", "task": "chain_sum"}, "no 'metadata'"),
]


@pytest.mark.parametrize(("verifier", "columns", "message"), REFUSED)
def test_what_cannot_be_judged(verifier: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        check(verifier, columns)
    check(verifier, columns, completions=["a"])  # nothing is sampled for it


def test_what_can_be_judged() -> None:
    check("numeric", {"answer": "1/2"})
    check("exact", {"answer": "3:30"})
    check("exact", {"answer": 0})
    check("reasoning_gym", GYM)
    check("own.module:function", {"answer": None})
    check(None, {})
    lone = Record("q", [], columns={"id": 1})
    answer_check("numeric", [lone])(lone)  # no row has the column: prepare says so of the whole file
