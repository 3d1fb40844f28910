"""What a template leaves out is a bad row; what it writes of calls and thoughts is a target."""

from __future__ import annotations

from typing import Any

import pytest

from stages.data.chat import ChatTemplate
from stages.data.messages import to_text
from stages.data.records import BadRow, Message
from stages.data.template import Template
from stages.trees import Tree
from tests.data.tiny import CHATML, EOS, targets, tiny_tokenizer

# As Hermes' and Qwen's: tools in front, calls as JSON in tags, a tool's answer as a turn of its own.
TOOLS = (
    "{% if tools %}<start>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<eos>\n{% endif %}"
    "{% for m in messages %}<start>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
WEATHER = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
ROW = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "reasoning_content": "I think.", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "content": "22 C"},
    {"role": "assistant", "content": "It is 22 C."},
]


def chat(template: str) -> ChatTemplate:
    tokenizer = tiny_tokenizer(template)
    return ChatTemplate(Template(tokenizer, {}, "2025-01-01"), {tokenizer.get_vocab()[EOS]}, None)


def tree(template: ChatTemplate, items: list[dict[str, Any]], tools: list[dict[str, Any]]) -> Tree:
    messages = to_text(items, "messages")
    assert isinstance(messages, list)
    (only,) = template.trees(messages[:1], [messages[1:]], tools)
    return only


def test_thoughts_and_calls_are_targets_and_tools_and_their_answers_are_not() -> None:
    template = chat(TOOLS)
    made = tree(template, ROW, [WEATHER])
    assert targets(template.tokenizer, made.completions[0]) == [
        '<think>I think.</think>Let me look.<call>{"name": "weather", "arguments": {"city": "Paris"}}</call><eos>',
        "It is 22 C.<eos>",
    ]
    assert '"description": "of a city"' in str(template.tokenizer.decode(made.prompt.input_ids))
    assert "<start>tool\n22 C<eos>" in str(template.tokenizer.decode(made.completions[0].input_ids))


def test_arguments_are_text_where_a_template_pastes_them() -> None:
    pasted = TOOLS.replace("{{ c.function | tojson }}", "{{ c.function.name + c.function.arguments }}")
    printed = TOOLS.replace("{{ c.function | tojson }}", "{{ c.function.name }}{{ c.function.arguments }}")
    for source in (pasted, printed):
        template = chat(source)
        first = targets(template.tokenizer, tree(template, ROW, [WEATHER]).completions[0])[0]
        assert first.endswith('<call>weather{"city": "Paris"}</call><eos>')


LEFT_OUT = [
    (CHATML, ROW, [], "does not write 'reasoning_content' of 'assistant'"),
    (CHATML, [ROW[0], {"role": "assistant", "content": "x", "tool_calls": [CALL]}], [], "'tool_calls' of 'assistant'"),
    (CHATML, [ROW[0], ROW[3]], [WEATHER], "does not write 'tools'"),
    (TOOLS.replace("{{ m.content }}", "{% if m.role != 'tool' %}{{ m.content }}{% endif %}"), ROW, [],
     "does not write 'content' of 'tool'"),
    (TOOLS.replace("{{ m.content }}", "{% if not m.tool_calls %}{{ m.content }}{% endif %}"), ROW, [],
     "does not write 'content' of 'assistant' beside its tool_calls"),
    (TOOLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"),
     [ROW[0], {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}], [], "does not write 'tool_calls'"),
    # Of what stands in a text, not in the shape of the dialogue.
    (CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('###')[0] }}"),
     [ROW[0], {"role": "assistant", "content": "yes ### and more"}], [], "leaves out what .* 'assistant' says"),
    (CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}"),
     [ROW[0], {"role": "assistant", "content": "<think>hm</think>yes"}], [], "not write 'reasoning_content'"),
    (CHATML, [{**ROW[0], "name": "Ann"}, ROW[3]], [], "does not write 'name' of 'user'"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "items", "tools", "message"), LEFT_OUT)
def test_what_a_template_leaves_out_is_named(template: str, items: Any, tools: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        tree(chat(template), items, tools)


def test_white_space_around_a_text_may_go_and_a_text_may_be_written_as_json() -> None:
    stripped = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")
    tree(chat(stripped), [{"role": "user", "content": " q\n"}, {"role": "assistant", "content": "a "}], [])
    as_json = TOOLS.replace(
        "{{ m.content }}",
        "{% if m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m.content }}{% endif %}",
    )
    tree(chat(as_json), [*ROW[:2], {"role": "tool", "content": 'a "b"\n'}, ROW[3]], [])


def test_thoughts_of_what_lies_behind_may_go_if_the_template_writes_those_of_an_answer() -> None:
    before = [
        Message(role="user", content="a"),
        Message(role="assistant", content="b", reasoning_content="hm"),
    ]
    last = TOOLS.replace("{% if m.reasoning_content %}", "{% if loop.last and m.reasoning_content %}")
    prompt, answer = [*before, Message(role="user", content="c")], Message(role="assistant", content="d")
    chat(last).trees(prompt, [[answer]], [])
    with pytest.raises(BadRow, match="reasoning_content"):
        chat(CHATML).trees(prompt, [[answer]], [])


CONTROL = [
    ("says <eos> here", [], "holds the control token <eos>"),
    ("says <start> here", [], "holds the control token <start>"),
    ("fine", [{**ROW[1], "reasoning_content": "<eos>"}], "<eos>"),
    ("fine", [{**ROW[1], "tool_calls": [{"function": {"name": "f", "arguments": {"x": "<eos>"}}}]}], "<eos>"),
]


@pytest.mark.parametrize(("content", "answer", "message"), CONTROL)
def test_control_tokens_in_a_text_are_named(content: str, answer: Any, message: str) -> None:
    answer = answer or [{"role": "assistant", "content": "a"}]
    with pytest.raises(BadRow, match=message):
        tree(chat(TOOLS), [{"role": "user", "content": content}, *answer], [])
