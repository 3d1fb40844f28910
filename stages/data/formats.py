"""The formats that data come in, how one is recognised, and how its rows become records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from stages.config.errors import UserError
from stages.data import parsers
from stages.data.columns import Columns
from stages.data.nearest import nearest
from stages.data.parsers import Fields
from stages.data.records import Record, Row


@dataclass(frozen=True)
class Format:
    """needs: canonical columns it is recognised by; may: columns it uses where they are there."""

    name: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    parse: Callable[[Fields], Record]


def detect(row: Row, columns: Columns) -> Format:
    """The first format all of whose columns a row has. Raises UserError that names the column to mend."""
    columns.check(row.values, row.where)
    available = columns.available(row.values)
    for known in FORMATS:
        if available.issuperset(known.needs) and not (known.name == "prompt-only" and available & COMPARED):
            return known
    raise UserError(f"{row.where}: {_missing(row, columns, available)}")


def parse(row: Row, known: Format, columns: Columns) -> Record:
    """A row of a known format as a record, beside the columns that the format does not use. Raises BadRow."""
    names = [*known.needs, *(name for name in known.may if name in columns.available(row.values))]
    record = known.parse(columns.pick(row.values, names))
    prompts = columns.tops(row.values, set(names) & {"prompt", "instruction", "input"})
    used = columns.tops(row.values, names) - prompts
    rest = {name: value for name, value in row.values.items() if name not in used | prompts}
    taken = {name: row.values[name] for name in row.values if name in used}
    return replace(record, columns=rest | columns.answer(row.values), used=taken, where=row.where)


def _missing(row: Row, columns: Columns, available: set[str]) -> str:
    own = ", ".join(row.values)
    # The format that has the largest part of its columns is the one meant; say what it lacks.
    begun = max((known for known in FORMATS[:-1]), key=lambda known: _share(known, available))
    if not _share(begun, available):
        spelled = {name: nearest(name, FIRST_COLUMNS) for name in row.values}
        hint = next((f"'{name}'{text}" for name, text in spelled.items() if "did you mean" in text), "")
        example = f"{columns.key}: {{prompt: {next(iter(row.values), 'question')}}}"
        return f"no known format in the columns {own}; {hint or f'map them, such as {example}'}"
    lacking = next(name for name in begun.needs if name not in available)
    found = nearest(lacking, [name for name in row.values if name not in available])
    hint = found if "did you mean" in found else ""
    return f"{begun.name} data need the column '{lacking}', and the columns are {own}{hint}"


def _share(known: Format, available: set[str]) -> float:
    return len(available.intersection(known.needs)) / len(known.needs)


# The order decides where a row fits several: the format that says most comes first.
FORMATS = [
    Format("preference, explicit prompt", ("prompt", "chosen", "rejected"), (), parsers.preference),
    Format("preference, implicit prompt", ("chosen", "rejected"), (), parsers.preference),
    Format("ranking by scores", ("prompt", "responses", "scores"), (), parsers.ranking),
    Format("ranking by order", ("prompt", "responses"), (), parsers.ranking),
    Format("unpaired", ("prompt", "completion", "label"), (), parsers.unpaired),
    Format("prompt-completion", ("prompt", "completion"), (), parsers.prompt_completion),
    Format("instruction", ("instruction", "output"), ("input",), parsers.instruction),
    Format("messages", ("messages",), (), parsers.messages),
    Format("language modelling", ("text",), (), parsers.language_modelling),
    Format("prompt-only", ("prompt",), (), parsers.prompt_only),
]
FIRST_COLUMNS = {name for known in FORMATS for name in known.needs}
# Beside a lone prompt these mean that a column is misspelled, not that completions are still to be sampled.
COMPARED = {"chosen", "rejected", "responses"}
