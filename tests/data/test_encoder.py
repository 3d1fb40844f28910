"""Plain text, and the choice between it and the chat template."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from transformers import AddedToken

from stages.config.errors import UserError
from stages.data.encoder import Encoder
from stages.data.records import BadRow, Message, Record
from stages.data.settings import DataSettings
from stages.data.tokenizers import eos_token_ids
from stages.trees import Tree
from tests.data.tiny import CHATML, make_config, targets, tiny_tokenizer

TURN = [Message(role="user", content="hi")]


def encoder(template: str | None = None, *overrides: str) -> Encoder:
    settings = DataSettings.model_validate(OmegaConf.to_container(make_config(*overrides).data))
    tokenizer = tiny_tokenizer(template)
    return Encoder(tokenizer, eos_token_ids(tokenizer), settings)


def encode(encoder: Encoder, record: Record) -> Tree:
    (only,) = encoder.encode(record)
    return only


def text(encoder: Encoder, ids: list[int]) -> str:
    return str(encoder.plain.tokenizer.decode(ids))


def test_plain_completions_end_with_eos() -> None:
    own = encoder()
    tree = encode(own, Record("2+2=", ["4", "five"]))
    assert text(own, tree.prompt.input_ids) == "2+2="
    assert [text(own, node.input_ids) for node in tree.completions] == ["4<eos>", "five<eos>"]
    assert all(all(node.loss_mask) for node in tree.completions)


def test_language_modelling_learns_every_token_but_the_first() -> None:
    own = encoder(CHATML)
    tree = encode(own, Record("", ["abc"], raw=True))
    assert text(own, tree.prompt.input_ids) == "a"
    assert targets(own.plain.tokenizer, tree.completions[0]) == ["bc<eos>"]


def test_plain_prompts_are_wrapped_where_there_is_a_template_unless_told_otherwise() -> None:
    record = Record("2+2=", ["4"])
    auto, never = encoder(CHATML), encoder(CHATML, "data.chat=never")
    assert text(auto, encode(auto, record).prompt.input_ids).startswith("<start>user\n2+2=")
    assert text(never, encode(never, record).prompt.input_ids) == "2+2="


def test_conversations_without_a_template_are_a_clear_error() -> None:
    record = Record(TURN, [], where="chats.jsonl, line 1")
    with pytest.raises(UserError, match=r"chats.jsonl, line 1: .* no chat template"):
        encoder().check(record)
    with pytest.raises(UserError, match="data.chat is 'never'"):
        encoder(CHATML, "data.chat=never").check(record)
    with pytest.raises(UserError, match="always"):
        encoder(None, "data.chat=always")


def test_a_completion_that_would_end_in_its_middle_is_named() -> None:
    with pytest.raises(BadRow, match="holds the token <eos>, with which it would end there"):
        encoder().encode(Record("The end is", ["marked by <eos> here"]))
    with pytest.raises(BadRow, match="control token <eos>"):
        encoder(CHATML).encode(Record("p", ["marked by <eos> here"]))
    # A prompt may hold its own template, and text without a prompt several documents.
    encoder(CHATML, "data.chat=never").encode(Record("<start>user\nq<eos>\n<start>assistant\n", ["a"]))
    encoder().encode(Record("", ["one<eos>two"], raw=True))


def test_special_tokens_that_no_template_writes_are_text_like_any_other() -> None:
    settings = DataSettings.model_validate(OmegaConf.to_container(make_config().data))
    tokenizer = tiny_tokenizer(CHATML)
    tokenizer.add_tokens([AddedToken("<filename>", special=True)])
    Encoder(tokenizer, eos_token_ids(tokenizer), settings).encode(Record("copy <filename>", ["yes"]))


def test_what_a_template_is_given_needs_a_template() -> None:
    for override in ("data.system_prompt=short", "data.chat_template_kwargs={a: 1}"):
        with pytest.raises(UserError, match=r"data\.\w+ needs a chat template"):
            encoder(None, override)
    with pytest.raises(ValueError, match="a date such as"):
        encoder(CHATML, "data.chat_template_date=tomorrow")
