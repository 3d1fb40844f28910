"""Prompts that a template writes: what comes out, which rows are bad, and in which words."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stages.config.errors import UserError
from stages.data.prompt_template import PromptTemplate, compiled
from stages.data.records import Row

KEY = "data.sft.prompt_template"


def fill(source: str, *rows: dict[str, Any]) -> list[Row]:
    numbered = (Row(values, f"a.jsonl, line {number}") for number, values in enumerate(rows, start=1))
    return list(PromptTemplate(source, KEY).fill(numbered))


WRITTEN = [
    (
        "{{ question }}\nAnswer with a number only.",
        {"question": "1 + 1?"},
        "1 + 1?\nAnswer with a number only.",
    ),
    ("{{ metadata.letters | join(' ') }}", {"metadata": {"letters": ["a", "b"]}}, "a b"),
    ("{{ a }}\n", {"a": "x"}, "x\n"),
    ("  {{ a }}\r\n<b>{{ a }}</b>", {"a": "&"}, "  &\n<b>&</b>"),
    ("{{ prompt }} Be brief.", {"prompt": "Why?"}, "Why? Be brief."),
    ("Say yes.", {"a": 1}, "Say yes."),
    ("{{ a }} {{ b }} {{ c }}", {"a": 0, "b": 1.5, "c": ""}, "0 1.5 "),
    ("{% if b %}{{ b }}{% else %}none{% endif %}", {"b": None}, "none"),
    ("{{ b | default('none') }}", {"a": "x"}, "none"),
    ("{% if b is defined %}{{ b }}{% endif %}{{ a }}", {"a": "x"}, "x"),
    ("{% for i in range(2) %}{% set t = a %}{{ t }}{{ i }}{% endfor %}", {"a": "x"}, "x0x1"),
    ("{{ a }}", {"a": "{{ b }} {% if %}"}, "{{ b }} {% if %}"),
    ("{{ '$' }}{{ a }}", {"a": 5}, "$5"),
]


@pytest.mark.parametrize(("source", "values", "prompt"), WRITTEN)
def test_what_it_writes_is_the_prompt_beside_the_row_s_own_columns(
    source: str, values: dict[str, Any], prompt: str
) -> None:
    (row,) = fill(source, values)
    assert row.values == {**values, "prompt": prompt}
    assert row.bad == ""


def test_the_columns_that_it_reads_or_replaces() -> None:
    def used(source: str, **values: Any) -> frozenset[str] | None:
        return fill(source, values)[0].prompt_from

    assert used("{{ a }} {{ b.c }}", a=1, b={"c": 2}, d=3) == {"a", "b"}
    assert used("{{ a }}", a=1, prompt="old") == {"a", "prompt"}
    assert used("{% for a in b %}{{ a }}{% endfor %}", a=1, b=[2]) == {"b"}
    assert used("constant", a=1) == frozenset()
    assert used("{{ b | default('') }}", a=1) == frozenset()


def test_a_column_that_the_rows_do_not_have_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as error:
        fill("{{ questoin }}", {"question": "q", "answer": "a"})
    assert str(error.value) == (
        "a.jsonl, line 1: no column 'questoin', which data.sft.prompt_template reads, and the columns are question, "
        "answer; did you mean 'question'?"
    )
    with pytest.raises(UserError, match=r"no column 'xyz', .* and the columns are question$"):
        fill("{% if false %}{{ xyz }}{% endif %}", {"question": "q"})


def test_a_bad_first_row_says_nothing_of_the_columns() -> None:
    rows = [Row({}, "a.jsonl, line 1", "holds NaN"), Row({"a": "x"}, "a.jsonl, line 2")]
    first, second = PromptTemplate("{{ a }}", KEY).fill(rows)
    assert first == rows[0] and second.values["prompt"] == "x"
    with pytest.raises(UserError, match="line 2: no column 'b'"):
        list(PromptTemplate("{{ b }}", KEY).fill(rows))


BAD = [
    ("{{ c }}", {"c": None}, "it writes a null (null here: c)"),
    ("{{ a.b }}", {"a": {"b": None}}, "it writes a null"),
    ("{{ a.b }}", {"a": {"bb": 1}}, "'dict object' has no attribute 'b'"),
    ("{{ a.b }}", {"a": None}, "'None' has no attribute 'b' (null here: a)"),
    ("{{ c }}", {"a": {}}, "'c' is undefined"),
    ("{% if c %}{% endif %}", {"a": {}}, "'c' is undefined"),
    ("{{ c | join }}", {"c": 5}, "TypeError: 'int' object is not iterable"),
    ("{{ c / 0 }}", {"c": 5}, "ZeroDivisionError: division by zero"),
    ("{{ a.items }}", {"a": {"items": 1}}, "it writes a function: read a key of that name as object['key']"),
    ("{{ c | map('upper') }}", {"c": ["x"]}, "it writes a generator: add | join(' ') or | list"),
]


@pytest.mark.parametrize(("source", "values", "said"), BAD)
def test_a_row_that_it_cannot_write_is_bad(source: str, values: dict[str, Any], said: str) -> None:
    row = fill(source, {"a": {"b": "x"}, "c": "y"}, values)[1]  # behind one that has both columns
    assert row == Row({}, "a.jsonl, line 2", f"{KEY}: {said}")


SYNTAX = [
    ("{{ question }", "line 1 is not valid Jinja: unexpected '}'"),
    ("a\n{% if x %}", "line 2 is not valid Jinja: Unexpected end of template."),
    ("{{ a | joined }}", "line 1 is not valid Jinja: No filter named 'joined'."),
    ("{{ a | random }}", "line 1 is not valid Jinja: No filter named 'random'."),  # other data every time
]


@pytest.mark.parametrize(("source", "said"), SYNTAX)
def test_what_is_no_template_is_told_in_one_line(source: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        compiled(source)
    assert "\n" not in str(error.value)


def test_a_template_reaches_no_further_than_its_row() -> None:
    values = {"a": {"b": ["x"]}, "c": "y"}
    for source in ("{{ c.__class__.__mro__ }}", "{{ a.b.append('z') }}", "{{ a.update(b=1) }}"):
        (row,) = fill(source, values)
        assert "unsafe" in row.bad or "not safely callable" in row.bad
    assert values == {"a": {"b": ["x"]}, "c": "y"}
    with pytest.raises(UserError, match="no column 'lipsum'"):
        fill("{{ lipsum() }}", values)
