"""Rows whose format has a prompt of its own beside the one that data.<role>.prompt_template writes."""

from __future__ import annotations

from stages.config.errors import UserError
from stages.data.columns import Columns
from stages.data.context import CONTEXT
from stages.data.formats import Format
from stages.data.records import BadRow, Record, Row


def refuse_two_prompts(role: str, row: Row, known: Format, columns: Columns) -> None:
    """Raises UserError where the template's prompt would be lost, or would silently take the place of another."""
    if row.prompt_from is None:
        return
    if why := _lost(row, known, columns) or _replaced(row, known, columns) or _twice(row, columns):
        raise UserError(f"{row.where}: data.{role}.prompt_template writes the prompt, and {why}")


def refuse_own_turns(role: str, row: Row, record: Record) -> None:
    """Raises BadRow where a completion repeats a prompt that is not the template's."""
    if row.prompt_from is None:
        return
    for completion in record.completions:
        if isinstance(completion, list) and completion[0]["role"] != "assistant":
            reason = "a completion brings a prompt of its own"
            detail = f"{reason} (it begins with a turn of '{completion[0]['role']}')"
            raise BadRow(reason, f"{detail}, which data.{role}.prompt_template does not replace")


def _lost(row: Row, known: Format, columns: Columns) -> str:
    """A format that reads no column `prompt`."""
    if "prompt" in known.needs:
        return ""
    name = known.needs[0]
    if name == "instruction":
        output = columns.tops(row.values, ["output"]).pop()
        mend = f"map {columns.key}: {{completion: {output}}}"
    else:
        mend = f"{_leave_out(name, columns)}, so that the template alone reads it"
    return f"{known.name} data take theirs from '{_own(row, name, columns)}': {mend}"


def _replaced(row: Row, known: Format, columns: Columns) -> str:
    """Columns that would be the prompt without the template, and that it does not read."""
    used = row.prompt_from or frozenset()
    if "prompt" in used:
        return ""
    for name in sorted({"instruction", "messages"} & columns.available(row.values)):
        if not columns.tops(row.values, [name]) <= used:
            own = _own(row, name, columns)
            return f"does not read '{own}', where these rows have it: read it, or {_leave_out(name, columns)}"
    if {"chosen", "rejected"} <= {*known.needs} and used <= columns.tops(row.values, ["chosen", "rejected"]):
        return "chosen and rejected begin with theirs, for it reads no other column"
    return ""


def _twice(row: Row, columns: Columns) -> str:
    """Columns that become a part of the conversation, whatever the template makes of them."""
    for name in sorted({*CONTEXT} & columns.available(row.values)):
        if columns.tops(row.values, [name]) & (row.prompt_from or frozenset()):
            own = _own(row, name, columns)
            return f"the model would see '{own}', which it reads, twice: {_leave_out(name, columns)}"
    return ""


def _own(row: Row, name: str, columns: Columns) -> str:
    return ", ".join(sorted(columns.tops(row.values, [name])))


def _leave_out(name: str, columns: Columns) -> str:
    """How no format reads a column: a mapping wins over `ignore`."""
    if name in columns.mapping:
        return f"remove {columns.key}.{name}"
    return f"name it in {columns.key.removesuffix('columns')}ignore"
