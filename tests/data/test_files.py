"""Files of every kind, and what is said of broken ones."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from stages.config.errors import UserError
from stages.data.files import read_files

ROWS = [{"prompt": 'a, "b"\nc', "completion": "007"}, {"prompt": "ü", "completion": "2"}]
TEXT = {"prompt", "completion"}


def write(path: Path) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    match "".join(path.suffixes):
        case ".jsonl":
            path.write_text(lines)
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".json":
            path.write_text(json.dumps(ROWS))
        case ".parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, ["prompt", "completion"])
                writer.writeheader()
                writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    rows = list(read_files(path, TEXT))
    assert [row.values for row in rows] == ROWS
    assert rows[1].where in (f"{path}, line 2", f"{path}, row 2")


def test_a_folder_is_its_files_in_order_without_the_rest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.json", "a.jsonl", "sub/c.csv", ".hidden.jsonl"):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("about")
    found = [Path(row.where.split(",")[0]).name for row in read_files(tmp_path, TEXT)]
    assert found == ["a.jsonl", "a.jsonl", "b.json", "b.json", "c.csv", "c.csv"]


def test_csv_numbers_are_numbers_where_they_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,score\n1,2.5\n")
    assert [row.values for row in read_files(tmp_path / "a.csv", TEXT)] == [{"prompt": "1", "score": 2.5}]


BROKEN = [
    ("a.jsonl", '{"text": "x"}\n\n{"text": \n', "line 3: malformed JSON"),
    ("a.jsonl", '{"text": "x"}\n["x"]\n', "line 2: expected a JSON object with columns, found list"),
    ("a.json", '{"text": "x"}', "expected a list of objects, found dict"),
    ("a.json", '{"text": "x"}\n{"text": "y"}', "malformed JSON .*JSONL"),
    ("a.json", "[3]", "row 1: expected an object"),
    ("a.csv", "prompt,completion\na,b\nc,d,e\n", "malformed CSV .*Row #3"),
    ("a.parquet", "no", "not a readable Parquet file"),
    ("a.xlsx", "no", "cannot read this kind of file; known are .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files_are_named_with_their_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}.*{message}"):
        list(read_files(tmp_path / name, TEXT))


def test_a_line_that_is_not_utf8_has_its_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n{"text": "\xff"}\n')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        list(read_files(tmp_path / "a.jsonl", TEXT))


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list(read_files(tmp_path / "none.jsonl", TEXT))
    with pytest.raises(UserError, match="holds no file of a known kind"):
        list(read_files(tmp_path, TEXT))
