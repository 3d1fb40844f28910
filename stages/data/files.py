"""Rows out of files: JSONL, JSON, CSV and Parquet, or a folder of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stages.config.errors import UserError
from stages.data.records import Row

Reader = Callable[[Path, set[str]], Iterator[Row]]


def read_files(path: Path, text_columns: set[str]) -> Iterator[Row]:
    """The rows of a file, or of every readable file under a folder in the order of their names.

    text_columns: CSV columns to read as text even where they look like numbers.
    Raises UserError naming the file, and the line where there are lines.
    """
    for file in _files(path):
        yield from READERS[_suffix(file)](file, text_columns)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_file():
        if _suffix(path) not in READERS:
            raise UserError(f"{path}: cannot read this kind of file; known are {', '.join(READERS)}")
        return [path]
    visible = (
        p
        for p in sorted(path.rglob("*"))
        if not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    files = [p for p in visible if p.is_file() and _suffix(p) in READERS]
    if not files:
        raise UserError(f"{path}: the folder holds no file of a known kind ({', '.join(READERS)})")
    return files


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def _read_jsonl(path: Path, _: set[str]) -> Iterator[Row]:
    # In binary, so that a line that is not UTF-8 has its number too.
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if line.strip():
                yield Row(_parse_line(line, where), where)


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: malformed JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object with columns, found {type(values).__name__}")
    return values


def _read_json(path: Path, _: set[str]) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: malformed JSON ({error}); one object per line is JSONL, named .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of objects, found {type(rows).__name__}")
    for number, values in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected an object with columns, found {type(values).__name__}")
        yield Row(values, where)


def _read_csv(path: Path, text_columns: set[str]) -> Iterator[Row]:
    convert = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in text_columns})
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        # One thread: only then does Arrow say which row is malformed.
        read = pyarrow.csv.ReadOptions(use_threads=False)
        table = pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: malformed CSV ({error})") from error
    yield from _table_rows(table, path)


def _read_parquet(path: Path, _: set[str]) -> Iterator[Row]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error
    yield from _table_rows(table, path)


def _table_rows(table: pa.Table, path: Path) -> Iterator[Row]:
    number = 0
    for batch in table.to_batches():
        for values in batch.to_pylist():
            number += 1
            yield Row(values, f"{path}, row {number}")


READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
