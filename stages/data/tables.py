"""Rows out of tables: CSV and Parquet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stages.config.errors import UserError
from stages.data.json_files import decode
from stages.data.records import Row

BLOCK = (
    2**31 - 1
)  # bytes: Arrow's largest. A row may not be longer than a block, nor of other types than the first
SHOWN = 300  # characters of what Arrow says, which quotes the row


def read_csv(path: Path, text_columns: set[str]) -> Iterator[Row]:
    """A row with a cell for each column of the first line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            decode(line, f"{path}, line {number}")
    convert = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in text_columns})
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    size = min(path.stat().st_size + 1, BLOCK)
    # One thread: only then does Arrow say which row is malformed.
    read = pyarrow.csv.ReadOptions(use_threads=False, block_size=size)
    try:
        table = pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: malformed CSV ({_said(error)})") from error
    _check_names(path, table.column_names)
    yield from _rows(path, table.to_batches())


def read_parquet(path: Path, _: set[str]) -> Iterator[Row]:
    """Nested columns as objects and lists."""
    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        _check_names(path, file.schema_arrow.names)
        yield from _rows(path, file.iter_batches())
    # A page that is damaged may read as anything.
    except (pa.ArrowException, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({_said(error)})") from error


def _rows(path: Path, batches: Any) -> Iterator[Row]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist(maps_as_pydicts="strict"):
            number += 1
            yield Row({name: _value(value) for name, value in values.items()}, f"{path}, row {number}")


def _value(value: Any) -> Any:
    """pandas writes NaN where there is no value."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: two columns are named '{twice[0]}'; rename one")


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
