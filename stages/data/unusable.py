"""Values that no row should have, whatever they were read from: text that is none, numbers without end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stages.data.records import Row

DIGITS = 4300  # Python refuses to convert integers of more digits to text
DEPTH = 100  # lists and objects in each other


@dataclass(frozen=True)
class Unusable:
    """Stands where such a value was. reason: what is wrong with the row."""

    reason: str


TOO_DEEP = Unusable(f"is nested more than {DEPTH} levels deep")
SURROGATE = Unusable("holds a lone surrogate, half of a character")


def marked(row: Row) -> Row:
    """The row, marked as bad where it holds such a value."""
    found = first_unusable(row.values)
    return replace(row, values={}, bad=found.reason) if found else row


def first_unusable(values: dict[str, Any]) -> Unusable | None:
    """The first such value within, or None."""
    waiting: list[tuple[Any, int]] = [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Unusable):
            return value
        if isinstance(value, str) and not _is_text(value):
            return SURROGATE
        if isinstance(value, dict | list | tuple):
            if depth == DEPTH:
                return TOO_DEEP
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(each, depth + 1) for each in inside if not isinstance(each, int | float)]
    return None


def _is_text(value: str) -> bool:
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False
