"""A template beside a prompt that the rows have anyway: what is the prompt, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from stages.config.errors import UserError
from stages.data.columns import Columns
from stages.data.formats import detect, parse
from stages.data.prompt_template import PromptTemplate
from stages.data.records import BadRow, Record, Row
from stages.data.two_prompts import refuse_own_turns, refuse_two_prompts
from stages.data.unread import refuse_unread

USER, ANSWER, OTHER = (
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
BOTH = {"chosen": "yes", "rejected": "no"}


def read(source: str, values: dict[str, Any], ignore: tuple[str, ...] = (), **mapping: Any) -> Record:
    """What the role sft makes of a row."""
    columns = Columns(mapping, "data.sft.columns", frozenset(ignore))
    template = PromptTemplate(source, "data.sft.prompt_template")
    (row,) = template.fill([Row(values, "a.jsonl, line 1")])
    known = detect(row, columns)
    refuse_two_prompts("sft", row, known, columns)
    record = parse(row, known, columns)
    refuse_own_turns("sft", row, record)
    refuse_unread("sft", known.name, record, columns.ignore)
    return record


def test_the_prompt_is_the_template_s_and_what_it_read_counts_as_read() -> None:
    values = {"question": "1 + 1?", "context": "Sums.", "answer": "2", "id": 7}
    record = read("{{ context }} {{ question }}", values, completion="answer")
    assert (record.prompt, record.completions) == ("Sums. 1 + 1?", ["2"])
    assert record.read == {"question", "context", "answer"}
    assert record.columns == {"question": "1 + 1?", "context": "Sums.", "id": 7}
    with pytest.raises(BadRow, match="the column 'context' would be lost"):
        read("{{ question }}", values, completion="answer")


def test_a_prompt_of_the_row_is_replaced() -> None:
    record = read("{{ prompt }} Be brief.", {"prompt": "Why?", "completion": "So."})
    assert (record.prompt, record.read) == ("Why? Be brief.", {"prompt", "completion"})
    assert record.columns == {} and record.used == {"completion": "So."}


def test_an_empty_prompt_is_what_it_is_without_a_template() -> None:
    with pytest.raises(BadRow, match="^'prompt' is empty$"):
        read(" {{ q }}\n", {"q": "", "completion": "c"})


PASSES = [
    ("{{ q }}", {"q": "x", **BOTH}, {}, (), "x", ["yes", "no"]),
    ("{{ q }}", {"q": "x", "responses": ["a", "b"], "scores": [1, 0]}, {}, (), "x", ["a", "b"]),
    ("{{ instruction }}!", {"instruction": "x", **BOTH}, {}, (), "x!", ["yes", "no"]),
    ("{{ instruction }}!", {"instruction": "x", "output": "o"}, {"completion": "output"}, (), "x!", ["o"]),
    ("{{ q }}", {"q": "x", "instruction": "y", **BOTH}, {}, ("instruction",), "x", ["yes", "no"]),
    ("{{ prompt }}!", {"prompt": "x", "messages": [USER, ANSWER], **BOTH}, {}, (), "x!", ["yes", "no"]),
    ("{{ messages[0].content }}!", {"messages": [USER], **BOTH}, {}, (), "q!", ["yes", "no"]),
    ("{{ messages[0].content }}!", {"messages": [USER, ANSWER]}, {}, ("messages",), "q!", []),
    ("On: {{ text }}", {"text": "x"}, {}, ("text",), "On: x", []),
    ("{{ system }} {{ q }}", {"system": "s", "q": "x", **BOTH}, {}, ("system",), "s x", ["yes", "no"]),
]


@pytest.mark.parametrize(("source", "values", "mapping", "ignore", "prompt", "completions"), PASSES)
def test_where_it_is_plain_whose_prompt_it_is(
    source: str, values: Any, mapping: Any, ignore: Any, prompt: str, completions: list[str]
) -> None:
    record = read(source, values, ignore, **mapping)
    assert (record.prompt, record.completions) == (prompt, completions)


DIALOGUE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
REFUSED = [
    (
        "{{ instruction }}!",
        {"instruction": "x", "output": "o"},
        {},
        "instruction data take theirs from 'instruction': map data.sft.columns: {completion: output}",
    ),
    (
        "{{ task }}!",
        {"task": "x", "reply": "o", "label": True},
        {"instruction": "task", "output": "reply"},
        "unpaired data take theirs from 'task': map data.sft.columns: {completion: reply}",
    ),
    (
        "{{ id }}",
        {"conversations": DIALOGUE, "id": 1},
        {},
        "messages data take theirs from 'conversations': name it in data.sft.ignore, so that the template alone "
        "reads it",
    ),
    (
        "{{ body }}!",
        {"body": "x"},
        {"text": "body"},
        "language modelling data take theirs from 'body': remove data.sft.columns.text, so that the template alone "
        "reads it",
    ),
    (
        "{{ id }}",
        {"instruction": "x", **BOTH, "id": 1},
        {},
        "does not read 'instruction', where these rows have it: read it, or name it in data.sft.ignore",
    ),
    ("{{ chosen }}", BOTH, {}, "chosen and rejected begin with theirs, for it reads no other column"),
    ("Go on.", {**BOTH, "id": 1}, {}, "chosen and rejected begin with theirs, for it reads no other column"),
    (
        "{{ sys }} {{ q }}",
        {"sys": "s", "q": "x", "completion": "c"},
        {"system": "sys"},
        "the model would see 'sys', which it reads, twice: remove data.sft.columns.system",
    ),
    (
        "{{ system_prompt }} {{ q }}",
        {"system_prompt": "s", "q": "x", "completion": "c"},
        {},
        "the model would see 'system_prompt', which it reads, twice: name it in data.sft.ignore",
    ),
]


@pytest.mark.parametrize(("source", "values", "mapping", "why"), REFUSED)
def test_two_prompts_are_refused_in_one_line(source: str, values: Any, mapping: Any, why: str) -> None:
    with pytest.raises(UserError) as error:
        read(source, values, **mapping)
    assert str(error.value) == f"a.jsonl, line 1: data.sft.prompt_template writes the prompt, and {why}"


def test_completions_that_begin_with_another_prompt_are_bad_rows() -> None:
    values = {"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}
    assert read("{{ prompt }}", values).completions == [[ANSWER], [OTHER]]
    with pytest.raises(BadRow) as error:
        read("{{ prompt }} Be brief.", values)
    assert error.value.reason == "a completion brings a prompt of its own"
    assert str(error.value) == (
        "a completion brings a prompt of its own (it begins with a turn of 'user'), which data.sft.prompt_template "
        "does not replace"
    )
