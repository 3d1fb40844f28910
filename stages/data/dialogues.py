"""Formats whose columns become those of another: a dialogue with a label, and the like. All raise BadRow."""

from __future__ import annotations

from stages.data import parsers
from stages.data.messages import as_turn, to_text
from stages.data.parsers import Fields
from stages.data.records import BadRow, Record


def preference(fields: Fields) -> Record:
    """The dialogue so far, and two ways on. Where chosen and rejected are whole dialogues, they say it all."""
    chosen, prompt = to_text(fields["chosen"], "chosen"), to_text(fields["messages"], "messages")
    if isinstance(chosen, list) and chosen[0]["role"] != "assistant":
        return parsers.preference({"chosen": fields["chosen"], "rejected": fields["rejected"]})
    if isinstance(prompt, list) and prompt[-1]["role"] == "assistant":
        raise BadRow("'messages' beside chosen and rejected ends with an answer")
    return parsers.preference({**fields, "prompt": prompt})


def preferred_output(fields: Fields) -> Record:
    return parsers.preference({**fields, "prompt": _task(fields)})


def unpaired(fields: Fields) -> Record:
    """The label is of the last answer; the turns before it are its prompt."""
    turns = as_turn(to_text(fields["messages"], "messages"), "user")
    if turns[-1]["role"] != "assistant":
        raise BadRow("'messages' with a label ends without an answer")
    return parsers.unpaired({"prompt": turns[:-1], "completion": turns[-1:], "label": fields["label"]})


def unpaired_output(fields: Fields) -> Record:
    return parsers.unpaired(
        {"prompt": _task(fields), "completion": fields["output"], "label": fields["label"]}
    )


def _task(fields: Fields) -> str:
    """The instruction and its input, as the instruction format joins them."""
    return str(parsers.instruction({**fields, "output": "-"}).prompt)
