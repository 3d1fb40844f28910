"""The formats that data come in, how one is recognised, and how its rows become records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from stages.config.errors import UserError
from stages.data import dialogues, parsers
from stages.data.columns import Columns
from stages.data.context import CONTEXT, with_context
from stages.data.nearest import nearest
from stages.data.parsers import Fields
from stages.data.records import Record, Row


@dataclass(frozen=True)
class Format:
    """needs: canonical columns it is recognised by; may: columns it uses where they are there, beside the context."""

    name: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    parse: Callable[[Fields], Record]


def detect(row: Row, columns: Columns) -> Format:
    """The first format all of whose columns a row has. Raises UserError that names the column to mend."""
    columns.check(row.values, row.where)
    available = columns.available(row.values)
    # A null column says nothing beside others, but a prompt with a null completion is not a prompt alone.
    for names, formats in ((columns.filled(row.values), FORMATS[:-1]), (available, FORMATS)):
        for known in formats:
            if names.issuperset(known.needs) and not (known.name == "prompt-only" and available & COMPARED):
                return known
    raise UserError(f"{row.where}: {_missing(row, columns, available)}")


def parse(row: Row, known: Format, columns: Columns) -> Record:
    """A row of a known format as a record, beside the columns that the format does not use. Raises BadRow."""
    available = columns.available(row.values)
    names = [*known.needs, *(name for name in (*known.may, *CONTEXT) if name in available)]
    fields = columns.pick(row.values, names)
    record = with_context(known.parse(fields), fields)
    prompts = columns.tops(row.values, PROMPTS & set(names))
    read = columns.tops(row.values, names)
    rest = {name: value for name, value in row.values.items() if name not in read}
    taken = {name: row.values[name] for name in row.values if name in read - prompts}
    rest |= columns.answer(row.values)
    if row.prompt_from is not None:
        read = read - {"prompt"} | row.prompt_from
    return replace(record, columns=rest, used=taken, read=frozenset(read), where=row.where)


def _missing(row: Row, columns: Columns, available: set[str]) -> str:
    own = ", ".join(row.values)
    # The format that has the largest part of its columns is the one meant; say what it lacks.
    begun = max((known for known in FORMATS[:-1]), key=lambda known: _share(known, available))
    if not _share(begun, available):
        spelled = {name: nearest(name, FIRST_COLUMNS) for name in row.values}
        hint = next((f"'{name}'{text}" for name, text in spelled.items() if "did you mean" in text), "")
        example = _mapping(row, ("prompt", "completion")) or f"prompt: {next(iter(row.values), 'question')}"
        if not hint or "completion" in example:
            hint = f"map them, such as {columns.key}: {{{example}}}"
        return f"no known format in the columns {own}; {hint}"
    lacking = [name for name in begun.needs if name not in available]
    found = nearest(lacking[0], [name for name in row.values if name not in available])
    hint = found if "did you mean" in found else ""
    if not hint and (
        example := _mapping(row, (*lacking, *(name for name in begun.may if name not in available)))
    ):
        hint = f"; map them, such as {columns.key}: {{{example}}}"
    return f"{begun.name} data need the column '{lacking[0]}', and the columns are {own}{hint}"


def _mapping(row: Row, names: tuple[str, ...]) -> str:
    """A guess for the columns that are missing, to be written into the config by a user who agrees."""
    pairs = (
        (name, next((own for own in OTHER_NAMES.get(name, ()) if own in row.values), None)) for name in names
    )
    return ", ".join(f"{name}: {own}" for name, own in pairs if own)


def _share(known: Format, available: set[str]) -> float:
    return len(available.intersection(known.needs)) / len(known.needs)


# The order decides where a row fits several: the format that says most comes first.
FORMATS = [
    Format("preference, explicit prompt", ("prompt", "chosen", "rejected"), (), parsers.preference),
    Format("preference, explicit prompt", ("messages", "chosen", "rejected"), (), dialogues.preference),
    Format(
        "preference, explicit prompt",
        ("instruction", "chosen", "rejected"),
        ("input",),
        dialogues.preferred_output,
    ),
    Format("preference, implicit prompt", ("chosen", "rejected"), (), parsers.preference),
    Format("ranking by scores", ("prompt", "responses", "scores"), (), parsers.ranking),
    Format("ranking by order", ("prompt", "responses"), (), parsers.ranking),
    Format("unpaired", ("prompt", "completion", "label"), (), parsers.unpaired),
    Format("unpaired", ("messages", "label"), (), dialogues.unpaired),
    Format("unpaired", ("instruction", "output", "label"), ("input",), dialogues.unpaired_output),
    Format("prompt-completion", ("prompt", "completion"), (), parsers.prompt_completion),
    Format("instruction", ("instruction", "output"), ("input",), parsers.instruction),
    Format("messages", ("messages",), (), parsers.messages),
    Format("language modelling", ("text",), (), parsers.language_modelling),
    Format("prompt-only", ("prompt",), (), parsers.prompt_only),
]
FIRST_COLUMNS = {name for known in FORMATS for name in known.needs}
PROMPTS = {"prompt", "instruction", "input", *CONTEXT}
# Beside a lone prompt these mean that a column is misspelled, not that completions are still to be sampled.
COMPARED = {"chosen", "rejected", "responses"}
# What files of the field call these columns, and something else elsewhere: named in errors, never assumed.
ANSWERS = ("response", "answer", "solution", "output", "target")
OTHER_NAMES = {
    "prompt": ("question", "query", "problem", "instruction"),
    "completion": ANSWERS,
    "output": ANSWERS,
    "input": ("context",),
    "chosen": ("chosen_response", "preferred", "accepted"),
    "rejected": ("rejected_response", "rejected_messages", "dispreferred"),
}
