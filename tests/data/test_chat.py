"""Chat templates: what is a target, what is refused."""

from __future__ import annotations

import pytest

from stages.config.errors import UserError
from stages.data.chat import ChatTemplate
from stages.data.records import BadRow, Message
from stages.trees import Node
from tests.data.tiny import BOS, CHATML, EOS, targets, tiny_tokenizer

USER, ANSWER = Message(role="user", content="hi"), Message(role="assistant", content="yo")
AGAIN, LAST = Message(role="user", content="more"), Message(role="assistant", content="no")


def token(template: ChatTemplate, name: str) -> int:
    """The id of a special token."""
    return template.tokenizer.get_vocab()[name]


def text(template: ChatTemplate, node: Node) -> str:
    return str(template.tokenizer.decode(node.input_ids))


def chat(template: str, system: str | None = None, specials: tuple[str, ...] = ()) -> ChatTemplate:
    tokenizer = tiny_tokenizer(template, specials)
    return ChatTemplate(tokenizer, {tokenizer.get_vocab()[EOS]}, system)


def test_the_end_of_turn_is_a_target_and_the_newline_after_it_is_not() -> None:
    template = chat(CHATML)
    tree = template.tree([USER], [[ANSWER]])
    assert text(template, tree.prompt) == "<start>user\nhi<eos>\n<start>assistant\n"
    assert text(template, tree.completions[0]) == "yo<eos>"
    assert tree.completions[0].loss_mask == [True, True, True]
    assert not any(tree.prompt.loss_mask)


def test_several_assistant_turns_are_several_runs_of_targets() -> None:
    template = chat(CHATML)
    node = template.tree([USER], [[ANSWER, AGAIN, LAST, AGAIN]]).completions[0]
    assert targets(template.tokenizer, node) == ["yo<eos>", "no<eos>"]
    assert text(template, node) == "yo<eos>\n<start>user\nmore<eos>\n<start>assistant\nno<eos>"


def test_tokens_are_those_of_the_whole_conversation() -> None:
    template = chat(CHATML)
    tree = template.tree([USER], [[ANSWER, AGAIN, LAST]])
    whole = template.encode(template.render([USER, ANSWER, AGAIN, LAST], generate=False))
    joined = tree.prompt.input_ids + tree.completions[0].input_ids
    assert joined == whole[: len(joined)]


def test_a_system_prompt_is_set_only_where_there_is_none() -> None:
    template = chat(CHATML, system="short")
    prompt = template.tree([USER], []).prompt
    assert text(template, prompt).startswith("<start>system\nshort<eos>\n<start>user")
    own = Message(role="system", content="own")
    assert "short" not in text(template, template.tree([own, USER], []).prompt)


def test_a_template_that_drops_thoughts_from_earlier_turns_is_followed() -> None:
    # As Qwen3's: the last answer alone has an (empty) thought, which is a target there.
    thought = "{% if loop.last and m['role'] == 'assistant' %}(){% endif %}"
    template = chat(CHATML.replace("{{ m['content'] }}", thought + "{{ m['content'] }}"))
    node = template.tree([USER], [[ANSWER, AGAIN, LAST]]).completions[0]
    assert targets(template.tokenizer, node) == ["yo<eos>", "()no<eos>"]


def test_an_end_of_turn_beside_eos_becomes_a_stop_token() -> None:
    gemma = CHATML.replace("<eos>", "<end_of_turn>")
    template = chat(gemma, specials=("<end_of_turn>",))
    end = token(template, "<end_of_turn>")
    assert template.stop_ids == {end, token(template, EOS)}
    assert template.tree([USER], [[ANSWER]]).completions[0].input_ids[-1] == end


def test_a_template_without_an_end_of_turn_is_refused() -> None:
    with pytest.raises(UserError, match="never learn to stop"):
        chat(CHATML.replace("<eos>", ""))


def test_a_template_that_doubles_bos_is_refused() -> None:
    with pytest.raises(UserError, match="two BOS"):
        chat(BOS + BOS + CHATML)


def test_a_template_writes_bos_once() -> None:
    template = chat(BOS + CHATML)
    ids = template.tree([USER], []).prompt.input_ids
    assert ids.count(token(template, BOS)) == 1


def test_a_generation_prompt_that_answers_do_not_begin_with_is_refused() -> None:
    with pytest.raises(UserError, match="prefix-stable"):
        chat(CHATML.replace("<start>assistant\n{% endif", "<start>assistant\n<think>{% endif"))


def test_roles_that_the_template_refuses_make_a_bad_row() -> None:
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    with pytest.raises(BadRow, match="no system role"):
        chat(refuse + CHATML).tree([Message(role="system", content="s"), USER], [[ANSWER]])


def test_a_prompt_needs_a_user_turn() -> None:
    with pytest.raises(BadRow, match="no user turn"):
        chat(CHATML).tree([], [[ANSWER]])
