"""A page with the first examples of each role, as the model will see them: masks can be checked by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.data.examples import Example
from stages.data.pieces import Cutter, Piece, visible
from stages.trees import Node

COUNT = 3  # examples of each role
LIMIT = 400  # tokens of a prompt or a completion
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; color: #666; padding: .6rem; }
mark { background: #c9f2d0; color: #04320d; } b { color: #a0188c; font-weight: 600; } i { color: #999; }"""
LEGEND = (
    "Grey is what the model reads, <mark>green</mark> what it is trained on, <b>bold</b> are special tokens; "
    "↵ is a line end. <code>python -m stages.show</code> shows more, and where tokens end."
)


def write_preview(
    path: Path, tokenizer: PreTrainedTokenizerBase, examples: Mapping[str, Sequence[Example]]
) -> None:
    """One self-contained HTML page."""
    cutter = Cutter(tokenizer, LIMIT)
    body = [f"<h2>{escape(role)}</h2>{_role(rows[:COUNT], cutter)}" for role, rows in examples.items()]
    page = (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>Examples</title><style>{STYLE}</style>\n"
    )
    path.write_text(f"{page}<h1>Examples</h1><p>{LEGEND}</p>\n" + "\n".join(body) + "\n", encoding="utf-8")


def _role(rows: Sequence[Example], cutter: Cutter) -> str:
    return "\n".join(
        f"<h3>{number}</h3>" + "".join(_node(title, node, cutter) for title, node in titled(example))
        + (f"<p>{escape(visible(columns_of(example)))}</p>" if example.columns else "")
        for number, example in enumerate(rows, start=1)
    )  # fmt: skip


def _node(title: str, node: Node, cutter: Cutter) -> str:
    return f"<div>{escape(title)}</div><pre>{''.join(map(_piece, cutter.pieces(node)))}</pre>\n"


def _piece(piece: Piece) -> str:
    text = escape(visible(piece.text))
    if piece.omitted:
        return f"\n<i>{text}</i>\n"
    text = f"<b>{text}</b>" if piece.special else text
    return f"<mark>{text}</mark>" if piece.target else text


def titled(example: Example) -> list[tuple[str, Node]]:
    """The prompt and the completions, with what there is to say of each."""
    nodes = [(f"prompt, {_count(example.tree.prompt)}", example.tree.prompt)]
    for index, node in enumerate(example.tree.completions):
        score = "" if example.scores is None else f", score {example.scores[index]:g}"
        nodes.append((f"completion {index + 1}{score}, {_count(node)}", node))
    return nodes


def columns_of(example: Example, width: int = 80) -> str:
    """The columns beside, for verifiers and reward functions, shortened."""
    shown = (f"{name} = {_short(value, width)}" for name, value in example.columns.items())
    return "columns: " + ", ".join(shown)


def _short(value: Any, width: int) -> str:
    text = repr(value)
    return text if len(text) <= width else f"{text[: width // 2]} … {text[-width // 2 :]}"


def _count(node: Node) -> str:
    targets = sum(node.loss_mask)
    return f"{len(node.input_ids)} tokens" + (f", {targets} of them targets" if targets else "")
