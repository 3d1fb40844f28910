"""Chat templates: what is a target, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from stages.config.errors import UserError
from stages.data.chat import ChatTemplate
from stages.data.records import BadRow, Message
from stages.data.template import Template
from stages.trees import Node, Tree
from tests.data.tiny import BOS, CHATML, EOS, targets, tiny_tokenizer

USER, ANSWER = Message(role="user", content="hi"), Message(role="assistant", content="yo")
AGAIN, LAST = Message(role="user", content="more"), Message(role="assistant", content="no")


DATE = "2024-02-29"


def token(template: ChatTemplate, name: str) -> int:
    """The id of a special token."""
    return template.tokenizer.get_vocab()[name]


def text(template: ChatTemplate, node: Node) -> str:
    return str(template.tokenizer.decode(node.input_ids))


def chat(
    template: str,
    system: str | None = None,
    specials: tuple[str, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> ChatTemplate:
    tokenizer = tiny_tokenizer(template, specials)
    return ChatTemplate(Template(tokenizer, kwargs or {}, DATE), {tokenizer.get_vocab()[EOS]}, system)


def tree(template: ChatTemplate, prompt: list[Message], completions: list[list[Message]]) -> Tree:
    """The one tree of a record."""
    (only,) = template.trees(prompt, completions, [])
    return only


def test_the_end_of_turn_is_a_target_and_the_newline_after_it_is_not() -> None:
    template = chat(CHATML)
    made = tree(template, [USER], [[ANSWER]])
    assert text(template, made.prompt) == "<start>user\nhi<eos>\n<start>assistant\n"
    assert text(template, made.completions[0]) == "yo<eos>"
    assert made.completions[0].loss_mask == [True, True, True]
    assert not any(made.prompt.loss_mask)


def test_several_assistant_turns_are_several_runs_of_targets() -> None:
    template = chat(CHATML)
    node = tree(template, [USER], [[ANSWER, AGAIN, LAST, AGAIN]]).completions[0]
    assert targets(template.tokenizer, node) == ["yo<eos>", "no<eos>"]
    assert text(template, node) == "yo<eos>\n<start>user\nmore<eos>\n<start>assistant\nno<eos>"


def test_tokens_are_those_of_the_whole_conversation() -> None:
    template = chat(CHATML)
    made = tree(template, [USER], [[ANSWER, AGAIN, LAST]])
    whole = template.encode(template.texts.whole([USER, ANSWER, AGAIN, LAST], []))
    joined = made.prompt.input_ids + made.completions[0].input_ids
    assert joined == whole[: len(joined)]


def test_a_system_prompt_is_set_only_where_there_is_none() -> None:
    template = chat(CHATML, system="short")
    prompt = tree(template, [USER], []).prompt
    assert text(template, prompt).startswith("<start>system\nshort<eos>\n<start>user")
    own = Message(role="system", content="own")
    assert "short" not in text(template, tree(template, [own, USER], []).prompt)


# As Qwen3's: the answer after the last question has its thought, maybe an empty one, and earlier answers have none.
QWEN = (
    "{% for m in messages %}<start>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
THOUGHTFUL = Message(role="assistant", content="yo", reasoning_content="I greet.")


def test_where_thoughts_are_dropped_from_earlier_turns_each_answer_is_an_example_as_the_model_sees_it() -> (
    None
):
    template = chat(QWEN)
    first, last = template.trees([USER], [[THOUGHTFUL, AGAIN, LAST]], [], split=True)
    assert text(template, first.prompt) == "<start>user\nhi<eos>\n<start>assistant\n"
    assert targets(template.tokenizer, first.completions[0]) == ["<think>\nI greet.\n</think>\n\nyo<eos>"]
    history = "<start>user\nhi<eos>\n<start>assistant\nyo<eos>\n<start>user\nmore<eos>\n<start>assistant\n"
    assert text(template, last.prompt) == history
    assert targets(template.tokenizer, last.completions[0]) == ["<think>\n\n</think>\n\nno<eos>"]


def test_a_comparison_of_several_answers_in_such_a_template_is_a_bad_row_and_one_of_the_last_is_not() -> None:
    template = chat(QWEN)
    with pytest.raises(BadRow, match="differ in the last answer alone"):
        template.trees([USER], [[ANSWER, AGAIN, LAST], [ANSWER, AGAIN, ANSWER]], [])
    (made,) = template.trees([USER, THOUGHTFUL, AGAIN], [[LAST], [ANSWER]], [])
    assert [targets(template.tokenizer, node)[0][-9:] for node in made.completions] == [
        "\n\nno<eos>",
        "\n\nyo<eos>",
    ]


def test_an_answer_that_is_no_target_makes_no_example_of_its_own() -> None:
    template = chat(QWEN)
    (only,) = template.trees([USER], [[{**THOUGHTFUL, "train": False}, AGAIN, LAST]], [], split=True)
    assert targets(template.tokenizer, only.completions[0]) == ["<think>\n\n</think>\n\nno<eos>"]


def test_the_template_is_called_with_the_kwargs_of_the_config() -> None:
    template = chat(QWEN, kwargs={"enable_thinking": False})
    made = tree(template, [USER], [[ANSWER]])
    assert text(template, made.prompt).endswith("<start>assistant\n<think>\n\n</think>\n\n")
    assert targets(template.tokenizer, made.completions[0]) == ["yo<eos>"]
    with pytest.raises(UserError, match="reads no 'enable_thinkin'; did you mean 'enable_thinking'"):
        chat(QWEN, kwargs={"enable_thinkin": False})
    with pytest.raises(UserError, match="'messages' is not for the config to set"):
        chat(QWEN, kwargs={"messages": []})


# As DeepSeek-R1's: answers are generated after an opened thought, and kept without what was thought.
R1 = (
    "{% for m in messages %}<start>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n<think>\n{% endif %}"
)


def test_a_template_that_opens_a_thought_is_trained_with_the_thoughts_of_the_data() -> None:
    template = chat(R1)
    inline = Message(role="assistant", content="<think>I greet.</think>yo")
    for answer in (THOUGHTFUL, inline):
        made = tree(template, [USER], [[answer]])
        assert text(template, made.prompt).endswith("<start>assistant\n<think>\n")
        assert targets(template.tokenizer, made.completions[0]) == ["I greet.\n</think>\n\nyo<eos>"]
    with pytest.raises(BadRow, match="'reasoning_content'"):
        tree(template, [USER], [[ANSWER]])
    first, last = template.trees([USER], [[inline, AGAIN, inline]], [], split=True)
    assert text(template, last.prompt).startswith(
        "<start>user\nhi<eos>\n<start>assistant\nyo<eos>\n<start>user"
    )
    assert first.completions == last.completions


def test_an_end_of_turn_beside_eos_becomes_a_stop_token() -> None:
    gemma = CHATML.replace("<eos>", "<end_of_turn>")
    template = chat(gemma, specials=("<end_of_turn>",))
    end = token(template, "<end_of_turn>")
    assert template.stop_ids == {end, token(template, EOS)}
    assert tree(template, [USER], [[ANSWER]]).completions[0].input_ids[-1] == end


def test_a_template_without_an_end_of_turn_is_refused() -> None:
    with pytest.raises(UserError, match="never learn to stop"):
        chat(CHATML.replace("<eos>", ""))


def test_a_template_that_doubles_bos_is_refused() -> None:
    with pytest.raises(UserError, match="two BOS"):
        chat(BOS + BOS + CHATML)


def test_a_template_writes_bos_once() -> None:
    template = chat(BOS + CHATML)
    ids = tree(template, [USER], []).prompt.input_ids
    assert ids.count(token(template, BOS)) == 1


def test_a_generation_prompt_that_answers_do_not_begin_with_is_refused() -> None:
    with pytest.raises(UserError, match="prefix-stable"):
        chat(CHATML.replace("<start>assistant\n{% endif", "<start>assistant\nSure: {% endif"))


def test_roles_that_the_template_refuses_make_a_bad_row() -> None:
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with pytest.raises(BadRow, match="no system role"):
        tree(chat(refuse + CHATML), [Message(role="system", content="s"), USER], [[ANSWER]])


def test_a_prompt_needs_a_user_turn() -> None:
    with pytest.raises(BadRow, match="no user turn"):
        tree(chat(CHATML), [], [[ANSWER]])


def test_contents_are_given_as_parts_to_a_template_that_wants_them_so() -> None:
    template = chat(
        CHATML.replace("{{ m['content'] }}", "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}")
    )
    made = tree(template, [USER], [[ANSWER]])
    assert text(template, made.prompt) == "<start>user\nhi<eos>\n<start>assistant\n"
    with pytest.raises(UserError, match="does not write what the messages say"):
        chat(CHATML.replace("{{ m['content'] }}", "{{ m['text'] }}"))


def test_a_template_with_todays_date_writes_the_one_of_the_config() -> None:
    dated = (
        "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}{% endif %}{{ d }}\n" + CHATML
    )
    template = chat(dated)
    assert template.texts.template.dated and not chat(CHATML).texts.template.dated
    assert text(template, tree(template, [USER], []).prompt).startswith("29 Feb 2024\n<start>user")
    with pytest.raises(UserError, match=r"cannot be fixed to data\.chat_template_date"):
        chat("{{ strftime_now(form) }}" + CHATML)


FAILING = [
    ("{{ 1 + messages[0]['content'] }}", "TypeError: unsupported operand"),
    ("{% for %}", "the model's chat template is not valid Jinja"),
    ("{{ messages[9].content.strip() }}", "UndefinedError: .*list object has no element 9"),
]


@pytest.mark.parametrize(("template", "message"), FAILING)
def test_a_template_that_fails_is_told_in_one_line(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        chat(template)
    assert "\n" not in str(caught.value)


def test_named_templates_need_a_default() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match=r"by name \(rag, tool_use\) and none is called 'default'"):
        Template(tokenizer, {}, DATE)
