"""Every format, plain and conversational: recognised, and read as the right prompt and completions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stages.config.errors import UserError
from stages.data.columns import Columns
from stages.data.formats import detect, parse
from stages.data.records import BadRow, Record, Row


def read(row: dict[str, Any], **mapping: Any) -> tuple[str, Record]:
    columns = Columns(mapping, "data.sft.columns")
    known = detect(Row(row, "rows.jsonl, line 1"), columns)
    return known.name, parse(Row(row, "rows.jsonl, line 1"), known, columns)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PLAIN = [
    ({"text": "abc"}, "language modelling", "", ["abc"], None),
    ({"prompt": "p"}, "prompt-only", "p", [], None),
    ({"prompt": "p", "completion": "c"}, "prompt-completion", "p", ["c"], None),
    ({"instruction": "do", "output": "o"}, "instruction", "do", ["o"], None),
    ({"instruction": "do", "input": "this", "output": "o"}, "instruction", "do\n\nthis", ["o"], None),
    ({"instruction": "do", "input": "", "output": "o"}, "instruction", "do", ["o"], None),
    ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preference, explicit prompt", "p", ["a", "b"], [1, 0]),
    (
        {"chosen": "is it so", "rejected": "is it not"},
        "preference, implicit prompt",
        "is it",
        [" so", " not"],
        [1, 0],
    ),
    (
        {"prompt": "p", "responses": ["a", "b"], "scores": [2, 7.5]},
        "ranking by scores",
        "p",
        ["a", "b"],
        [2, 7.5],
    ),
    ({"prompt": "p", "responses": ["a", "b", "c"]}, "ranking by order", "p", ["a", "b", "c"], [2, 1, 0]),
    ({"prompt": "p", "completion": "c", "label": True}, "unpaired", "p", ["c"], [1]),
    ({"prompt": "p", "completion": "c", "label": "False"}, "unpaired", "p", ["c"], [0]),
    ({"instruction": "do", "input": "this", "output": "o", "label": 1}, "unpaired", "do\n\nthis", ["o"], [1]),
    ({"prompt": "p", "completion": "c", "kto_tag": True}, "unpaired", "p", ["c"], [1]),
    (
        {"instruction": "do", "input": "this", "chosen": "a", "rejected": "b"},
        "preference, explicit prompt",
        "do\n\nthis",
        ["a", "b"],
        [1, 0],
    ),
    # JSON that is no message is text, and so is a list of them that says something else
    ({"prompt": "p", "completion": '{"value": 3}'}, "prompt-completion", "p", ['{"value": 3}'], None),
]


@pytest.mark.parametrize(("row", "name", "prompt", "completions", "scores"), PLAIN)
def test_plain_formats(row: Any, name: str, prompt: str, completions: Any, scores: Any) -> None:
    found, record = read(row)
    assert (found, record.prompt, record.completions, record.scores) == (name, prompt, completions, scores)
    assert not record.conversational


CONVERSATIONAL = [
    ({"messages": [user("p"), assistant("c")]}, [user("p")], [[assistant("c")]]),
    ({"prompt": [user("p")]}, [user("p")], []),
    ({"prompt": [user("p")], "completion": [assistant("c")]}, [user("p")], [[assistant("c")]]),
    ({"prompt": [user("p")], "completion": "c"}, [user("p")], [[assistant("c")]]),
    (
        {"prompt": "p", "chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]},
        [user("p")],
        [[assistant("a")], [assistant("b")]],
    ),
    (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]},
        [user("p")],
        [[assistant("a")], [assistant("b")]],
    ),
    (
        {"prompt": [user("p")], "responses": [[assistant("a")], [assistant("b")]], "scores": [1, 2]},
        [user("p")],
        [[assistant("a")], [assistant("b")]],
    ),
    ({"prompt": [user("p")], "completion": [assistant("c")], "label": 1}, [user("p")], [[assistant("c")]]),
    (
        {"messages": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]},
        [user("p")],
        [[assistant("c")]],
    ),
    ({"messages": '[{"role": "user", "content": "p"}]'}, [user("p")], []),
]


CONVERSATIONAL += [
    (
        {name: [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]},
        [user("p")],
        [[assistant("c")]],
    )
    for name in ("conversations", "conversation", "dialog", "turns")
]
SIDES = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
CONVERSATIONAL += [
    (
        {"conversations": [{"from": "human", "value": "p"}], **SIDES},
        [user("p")],
        [[assistant("a")], [assistant("b")]],
    ),
    (
        {"messages": [user("p"), assistant("a")], **{s: [user("p"), assistant(s)] for s in SIDES}},
        [user("p")],
        [[assistant("chosen")], [assistant("rejected")]],
    ),
    ({"messages": [user("p"), assistant("c")], "label": False}, [user("p")], [[assistant("c")]]),
    ({"messages": '[{"content": "p", "role": "user"}]'}, [user("p")], []),
    ({"prompt": "p", "completion": '{"content": "c", "role": "assistant"}'}, [user("p")], [[assistant("c")]]),
]
HISTORY = [user("q1"), assistant("a1"), user("q2"), assistant("a2")]
SYSTEM = {"role": "system", "content": "Be terse."}
CONVERSATIONAL += [
    (
        {**row, name: "Be terse.", "history": [["q1", "a1"], ["q2", "a2"]]},
        [SYSTEM, *HISTORY, user("p")],
        answers,
    )
    for name in ("system", "system_prompt")
    for row, answers in [
        ({"instruction": "p", "input": "", "output": "c"}, [[assistant("c")]]),
        ({"prompt": "p"}, []),
        ({"messages": [user("p"), assistant("c")]}, [[assistant("c")]]),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, [[assistant("a")], [assistant("b")]]),
        ({"instruction": "p", "chosen": "a", "rejected": "b"}, [[assistant("a")], [assistant("b")]]),
    ]
]
CONVERSATIONAL += [
    ({"prompt": "p", "history": HISTORY, "system": ""}, [*HISTORY, user("p")], []),
    ({"prompt": [SYSTEM, user("p")], "history": '[["q1", "a1"]]'}, [SYSTEM, *HISTORY[:2], user("p")], []),
]


@pytest.mark.parametrize(("row", "prompt", "completions"), CONVERSATIONAL)
def test_conversational_formats(row: Any, prompt: Any, completions: Any) -> None:
    _, record = read(row)
    assert (record.prompt, record.completions) == (prompt, completions)
    assert record.conversational


def test_transcripts_are_dialogues_that_share_their_beginning() -> None:
    shared = "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: and?"
    name, record = read({"chosen": f"{shared}\n\nAssistant: fine", "rejected": f"{shared}\n\nAssistant: bad"})
    assert name == "preference, implicit prompt"
    assert record.prompt == [user("hi"), assistant("yo"), user("and?")]
    assert record.completions == [[assistant("fine")], [assistant("bad")]]


def test_dialogues_that_part_early_share_the_prompt_before_an_answer() -> None:
    chosen = [user("hi"), assistant("yo"), user("a"), assistant("b")]
    rejected = [user("hi"), assistant("yo"), user("c"), assistant("d")]
    _, record = read({"chosen": chosen, "rejected": rejected})
    assert record.prompt == [user("hi")]
    assert record.completions == [chosen[1:], rejected[1:]]


def test_a_completion_that_is_its_prompt_alone_is_a_bad_row() -> None:
    """Some sets repeat the prompt in each answer; of this one nothing would be left."""
    with pytest.raises(BadRow, match="says no more than its prompt"):
        read({"prompt": [user("hi")], "completion": [user("hi")]})


@pytest.mark.parametrize("first", ["weight", "name", "reasoning_content", "role"])
def test_messages_in_a_cell_are_read_whatever_their_first_key(first: str) -> None:
    message = {"role": "assistant", "content": "a", "weight": 1, "name": "bob", "reasoning_content": "hm"}
    cell = json.dumps([{first: message[first]} | message])
    _, record = read({"prompt": "q", "completion": cell})
    assert isinstance(record.completions[0], list) and record.completions[0][0]["content"] == "a"
    with pytest.raises(BadRow, match="not JSON"):
        read({"prompt": "q", "completion": str([{first: message[first]} | message])})


def test_other_json_is_text_like_any_other() -> None:
    for text in ('{"answer": 5}', '{"answer": 5, "to"', "[1, NaN]", "{'a': 'role'}"):
        _, record = read({"prompt": "q", "completion": text})
        assert record.completions == [text]


NULLS = [
    ({"messages": [user("q"), assistant("a")], "label": None}, "messages"),
    ({"prompt": "q", "completion": "a", "label": None}, "prompt-completion"),
    ({"prompt": "q", "completion": "a", "chosen": None, "rejected": None}, "prompt-completion"),
]


@pytest.mark.parametrize(("row", "name"), NULLS)
def test_a_column_that_is_null_says_nothing(row: dict[str, Any], name: str) -> None:
    assert read(row)[0] == name


def test_a_transcript_prompt_ends_where_the_answer_begins() -> None:
    _, record = read({"prompt": "\n\nHuman: hi\n\nAssistant:", "completion": " yo"})
    assert (record.prompt, record.completions) == ([user("hi")], [[assistant(" yo")]])


def test_turns_of_one_role_are_joined() -> None:
    _, record = read({"text": "\n\nHuman: hi\n\nAssistant: one\n\nAssistant: two"})
    assert record.completions == [[assistant("one\n\ntwo")]]


def test_columns_are_mapped_into_objects_and_lists() -> None:
    row = {
        "question": "q",
        "a": {"text": "x", "good": False},
        "b": {"text": "y", "good": True},
        "source": "web",
    }
    name, record = read(row, prompt="question", responses=["a.text", "b.text"], scores=["a.good", "b.good"])
    assert (name, record.prompt, record.completions, record.scores) == (
        "ranking by scores",
        "q",
        ["x", "y"],
        [0, 1],
    )
    assert record.columns == {"source": "web"}
    assert record.used == {"a": row["a"], "b": row["b"]}


def test_the_answer_of_verifiers_can_be_mapped() -> None:
    _, record = read({"prompt": "q", "ground_truth": "3"}, answer="ground_truth")
    assert record.columns == {"ground_truth": "3", "answer": "3"}


BAD = [
    ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen is equal to rejected"),
    ({"prompt": "p", "completion": None}, "'completion' is empty"),
    ({"prompt": " ", "completion": "c"}, "'prompt' is empty"),
    ({"prompt": 3, "completion": "c"}, "'prompt' is int"),
    ({"prompt": "p", "responses": "ab"}, "'responses' is not a list"),
    (
        {"prompt": "p", "responses": ["a", "b"], "scores": [1]},
        "'scores' does not hold one number per response",
    ),
    ({"prompt": "p", "responses": ["a"], "scores": ["x"]}, "'scores' is not a number"),
    ({"prompt": "p", "completion": "c", "label": 0.5}, "'label' is neither true nor false"),
    ({"messages": [{"role": "robot", "content": "c"}]}, "the role 'robot'"),
    ({"messages": [{"role": "user"}]}, "has no text"),
    ({"messages": [3]}, "a message that is not an object"),
    ({"chosen": "[{'role': 'user', 'content': 'p'}]", "rejected": "x"}, "what Python prints .* json.dumps"),
    (
        {"messages": [SYSTEM, user("p")], "system": "Be kind."},
        "'system' and the conversation's own system message",
    ),
    ({"text": "abc", "system": "Be terse."}, "no place for 'system'"),
    ({"prompt": "p", "history": [["q1"]]}, "no pair of a question and its answer"),
    ({"prompt": "p", "tools": [{"description": "x"}]}, "no tool definition"),
    ({"messages": [user("p")], "label": True}, "ends without an answer"),
    ({"messages": HISTORY, **SIDES}, "beside chosen and rejected ends with an answer"),
    ({"chosen": "yes", "rejected": "no"}, "share no prompt"),
    ({"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("b")]}, "share no prompt"),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"},
        "ends without an answer",
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_rows(row: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        read(row)


UNKNOWN = [
    ({"promt": "p"}, {}, "'promt'; did you mean 'prompt'"),
    ({"question": "p", "reply": "c"}, {}, r"map them, such as data.sft.columns: \{prompt: question\}"),
    (
        {"prompt": "p", "chosen": "a", "rejectd": "b"},
        {},
        "need the column 'rejected'.*did you mean 'rejectd'",
    ),
    ({"promt": "p", "completion": "c"}, {}, "need the column 'prompt'.*did you mean 'promt'"),
    ({"question": "p", "answer": "c"}, {}, r"data.sft.columns: \{prompt: question, completion: answer\}"),
    ({"query": "p", "response": "c"}, {}, r"data.sft.columns: \{prompt: query, completion: response\}"),
    (
        {"instruction": "p", "context": "x", "response": "c"},
        {},
        r"need the column 'output'.*data.sft.columns: \{output: response, input: context\}",
    ),
    ({"question": "p"}, {"prompt": "qestion"}, "no column 'qestion', .*did you mean 'question'"),
    ({"a": {"text": "x"}}, {"prompt": "a.txt"}, "no column 'a.txt', .*did you mean 'a.text'"),
    ({"question": "p"}, {"promt": "question"}, "'promt' is no canonical column; did you mean 'prompt'"),
]


@pytest.mark.parametrize(("row", "mapping", "message"), UNKNOWN)
def test_unknown_columns_name_the_nearest(row: Any, mapping: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"data.sft.columns.*{message}|rows.jsonl, line 1: .*{message}"):
        read(row, **mapping)


TOOL = {"name": "weather", "description": "of a city", "parameters": {}}


@pytest.mark.parametrize(
    "value", [[TOOL], TOOL, json.dumps([TOOL]), [json.dumps(TOOL)], [{"type": "function", "function": TOOL}]]
)
def test_tools_in_every_spelling(value: Any) -> None:
    for name in ("tools", "functions"):
        _, record = read({"prompt": "p", name: value})
        assert record.tools == [{"type": "function", "function": TOOL}]
        assert record.read == {"prompt", name} and record.columns == {}


def test_what_is_read_and_what_stands_beside_it() -> None:
    _, record = read({"prompt": "p", "completion": "c", "system": "s", "id": 3})
    assert record.read == {"prompt", "completion", "system"}
    assert (record.columns, record.used) == ({"id": 3}, {"completion": "c"})
