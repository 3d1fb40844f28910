"""What is shown of tokens, and what of it is escaped."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.examples import Example
from stages.data.pieces import Cutter, Piece, visible
from stages.data.preview import write_preview
from stages.trees import Node, Tree
from tests.data.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def node(text: str, targets: str = "") -> Node:
    """The text's tokens; those of `targets`, at its end, are targets."""
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    length = len(TOKENIZER(targets, add_special_tokens=False).input_ids)
    return Node(ids, [False] * (len(ids) - length) + [True] * length)


def test_runs_of_one_kind_are_one_piece() -> None:
    pieces = Cutter(TOKENIZER, 100).pieces(node("<start>user a<eos>", "a<eos>"))
    assert pieces == [
        Piece("<start>", False, True), Piece("user ", False, False), Piece("a", True, False), Piece("<eos>", True, True)
    ]  # fmt: skip


def test_text_that_looks_like_a_special_token_is_none() -> None:
    ids = [token for letter in "<eos>" for token in TOKENIZER(letter, add_special_tokens=False).input_ids]
    assert Cutter(TOKENIZER, 100).pieces(Node(ids, [False] * 5)) == [Piece("<eos>", False, False)]


def test_borders_stand_between_characters_and_not_inside() -> None:
    pieces = Cutter(TOKENIZER, 100, borders=True).pieces(node("aü€b"))
    assert [piece.text for piece in pieces] == ["a", "ü", "€", "b"]  # tokens are bytes: 1, 2, 3 and 1 of them


def test_the_middle_of_what_is_long_is_left_out_and_counted() -> None:
    pieces = Cutter(TOKENIZER, 5).pieces(node("0123456789", "456789"))
    assert [piece.text for piece in pieces] == ["012", "… 5 tokens, 4 of them targets …", "89"]
    assert [piece.omitted for piece in pieces] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a↵\nb"),
        ("\x1b[2Jx", "\\x1b[2Jx"),
        ("a\u202eb", "a\\u202eb"),
        ("\r", "\\x0d"),
        ("\t ü", "\t ü"),
    ],
)
def test_what_would_steer_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_page_marks_targets_and_escapes_what_stands_in_rows(tmp_path: Path) -> None:
    tree = Tree(node("<start><script>q</script>"), [node("yes<eos>", "yes<eos>"), node("no<eos>", "no<eos>")])
    example = Example(tree, "q", [1.0, 0.0], {"answer": "<b>3</b>"})
    write_preview(tmp_path / "a.html", TOKENIZER, {"preference": [example] * 9})
    page = (tmp_path / "a.html").read_text()
    assert page.count("<h3>") == 3  # the first ones alone
    assert "<pre><b>&lt;start&gt;</b>&lt;script&gt;q&lt;/script&gt;</pre>" in page
    assert "<div>completion 1, score 1, 4 tokens, 4 of them targets</div>" in page
    assert "<pre><mark>yes</mark><mark><b>&lt;eos&gt;</b></mark></pre>" in page
    assert "columns: answer = &#x27;&lt;b&gt;3&lt;/b&gt;&#x27;" in page and "<script>" not in page
