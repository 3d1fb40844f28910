"""Rows out of JSON: an object a line, or a list of objects."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.config.errors import UserError
from stages.data.records import Row
from stages.data.unusable import DIGITS, TOO_DEEP, Unusable

UTF16 = (b"\xff\xfe", b"\xfe\xff")


def read_jsonl(path: Path, _: set[str]) -> Iterator[Row]:
    """An object a line."""
    # In binary, so that a line that is not UTF-8 has its number too.
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            text = decode(line, where)
            if text.strip():
                yield _row(text, where)


def _row(text: str, where: str) -> Row:
    try:
        values = parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: malformed JSON ({error.msg} at column {error.colno})") from error
    except RecursionError:
        values = {"": TOO_DEEP}
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object with columns, found {type(values).__name__}")
    return Row(values, where)


def read_json(path: Path, _: set[str]) -> Iterator[Row]:
    """A list of objects."""
    with path.open("rb") as file:
        text = "".join(decode(line, f"{path}, line {number}") for number, line in enumerate(file, start=1))
    try:
        rows = parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: malformed JSON ({error}); one object per line is JSONL, named .jsonl"
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply to be read") from error
    if not isinstance(rows, list):
        lists = (
            [name for name, value in rows.items() if isinstance(value, list)]
            if isinstance(rows, dict)
            else []
        )
        hint = f"; write what is under '{lists[0]}' as a file of its own" if lists else ""
        raise UserError(f"{path}: expected a list of objects, found {type(rows).__name__}{hint}")
    for number, values in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected an object with columns, found {type(values).__name__}")
        yield Row(values, where)


def decode(data: bytes, where: str) -> str:
    """Bytes of a text file as text, without a byte order mark. Raises UserError where they are not UTF-8."""
    if data.startswith(UTF16) or b"\0" in data:
        raise UserError(f"{where}: this seems to be UTF-16 or no text; save the file as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error


def parse_json(text: str) -> Any:
    """JSON with Unusable in the place of each value that no row should have.

    Raises JSONDecodeError, and RecursionError where it is nested beyond Python's limit.
    """
    return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        values[twice] = Unusable(f"holds the key '{twice}' twice")
    return values


def _integer(digits: str) -> int | Unusable:
    return (
        int(digits) if len(digits) <= DIGITS else Unusable(f"holds an integer of more than {DIGITS:,} digits")
    )


def _constant(name: str) -> Unusable:
    return Unusable(f"holds {name}, which is not JSON; write null where there is no value")
