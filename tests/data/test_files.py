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
from stages.data.unusable import marked

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


def test_names_in_capitals_and_marks_before_utf8_are_read(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    (tmp_path / "A.JSONL").write_bytes(mark + b'{"prompt": "a"}\r\n' + mark + b'{"prompt": "b"}\r\n')
    (tmp_path / "b.csv").write_bytes(mark + b"prompt\r\nc\r\n")
    (tmp_path / "c.json").write_bytes(mark + b'[{"prompt": "d"}]')
    assert [row.values["prompt"] for row in read_files(tmp_path, TEXT)] == list("abcd")


def test_what_a_folder_holds_besides_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.jsonl")
    for name in ("b.jsonl.zst", "c.txt"):
        (tmp_path / name).write_text("x")
    with caplog.at_level("INFO"):
        assert len(list(read_files(tmp_path, TEXT))) == 2
    assert "not read, of another kind: b.jsonl.zst, c.txt" in caplog.text


def test_long_rows_and_late_types_of_csv_are_read(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    (tmp_path / "a.csv").write_text(f"prompt,id\na,1\n{long},2\nb,three\n")
    rows = [row.values for row in read_files(tmp_path / "a.csv", TEXT)]
    assert rows[1] == {"prompt": long, "id": "2"} and rows[2]["id"] == "three"


def test_nested_parquet_is_objects_and_lists_and_nan_is_nothing(tmp_path: Path) -> None:
    table = pa.table({
        "messages": [[{"role": "user", "content": "q"}]],
        "more": pa.array([[("k", "v")]], type=pa.map_(pa.string(), pa.string())),
        "score": [float("nan")],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = read_files(tmp_path / "a.parquet", TEXT)
    assert row.values == {"messages": [{"role": "user", "content": "q"}], "more": {"k": "v"}, "score": None}


BAD_ROWS = [
    (r'{"prompt": "q \ud83d"}', "holds a lone surrogate, half of a character"),
    (r'{"q \ud83d": "a"}', "holds a lone surrogate, half of a character"),
    (f'{{"prompt": "q", "answer": {"1" * 5000}}}', "holds an integer of more than 4,300 digits"),
    (f'{{"prompt": "q", "deep": [{{"x": -{"1" * 5000}}}]}}', "holds an integer of more than 4,300 digits"),
    ('{"prompt": "q", "input": NaN}', "holds NaN, which is not JSON; write null where there is no value"),
    ('{"prompt": "q", "scores": [-Infinity]}', "holds -Infinity, which is not JSON"),
    ('{"prompt": "q", "prompt": "r"}', "holds the key 'prompt' twice"),
    ('{"prompt": "q", "meta": {"a": 1, "a": 1}}', "holds the key 'a' twice"),
    ('{"prompt": "q", "x": ' + "[" * 101 + "]" * 101 + "}", "is nested more than 100 levels deep"),
    ('{"prompt": "q", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested more than 100 levels deep"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS)
def test_values_that_no_row_should_have_make_a_bad_row(tmp_path: Path, line: str, reason: str) -> None:
    good = '{"prompt": "\\ud83d\\ude00", "answer": 12345678901234567890, "x": {"a": [[1.5, null, true]]}}'
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    first, bad, last = map(marked, read_files(tmp_path / "a.jsonl", TEXT))
    assert bad.bad.startswith(reason) and bad.where.endswith("line 2") and bad.values == {}
    assert first.values == last.values
    assert first.values == {
        "prompt": "\U0001f600",
        "answer": 12345678901234567890,
        "x": {"a": [[1.5, None, True]]},
    }
    assert not first.bad


BROKEN = [
    ("a.jsonl", '{"text": "x"}\n\n{"text": \n', "line 3: malformed JSON"),
    ("a.jsonl", '{"text": "x"}\n["x"]\n', "line 2: expected a JSON object with columns, found list"),
    ("a.json", '{"text": "x"}', "expected a list of objects, found dict"),
    ("a.json", '{"text": "x"}\n{"text": "y"}', "malformed JSON .*JSONL"),
    ("a.json", "[3]", "row 1: expected an object"),
    ("a.csv", "prompt,completion\na,b\nc,d,e\n", "malformed CSV .*Row #3"),
    ("a.parquet", "no", "not a readable Parquet file"),
    ("a.xlsx", "no", "cannot read this kind of file; known are .jsonl"),
    ("a.jsonl.zst", "no", "cannot read this kind of file; known are .jsonl"),
    ("a.json", '{"data": [{"text": "x"}]}', "found dict; write what is under 'data' as a file of its own"),
    ("a.json", "[" * 100_000, "nested too deeply"),
    ("a.csv", "prompt,completion\na\n", "malformed CSV .*Row #2: Expected 2 columns, got 1"),
    ("a.csv", "prompt,prompt\na,b\n", "two columns are named 'prompt'"),
    ("a.jsonl", "", "the file is empty"),
    ("a.parquet", "", "the file is empty"),
    *(
        (
            name,
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "a pointer of git-lfs.*git lfs pull",
        )
        for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz")
    ),
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


GOOD = gzip.compress(b'{"text": "x"}\n' * 10_000)
DAMAGED = [
    ("a.jsonl.gz", GOOD[:-20], "cut off or damaged"),
    ("a.jsonl.gz", GOOD[:40] + bytes([GOOD[40] ^ 255]) + GOOD[41:], "damaged|cannot be read"),
    ("a.jsonl.gz", b'{"text": "x"}', "cannot be read .Not a gzipped file"),
    ("a.jsonl", GOOD, "compressed by gzip; name it a.jsonl.gz"),
    ("a.jsonl", '{"text": "x"}\n'.encode("utf-16"), "line 1: this seems to be UTF-16"),
    ("a.jsonl", '{"text": "x"}\n'.encode("utf-16-le"), "line 1: this seems to be UTF-16"),
    ("a.json", '[{"text": "x"}]'.encode("utf-16"), "line 1: this seems to be UTF-16"),
    (
        "a.json",
        '[\n{"text": "\xfc"}]'.encode("latin-1"),
        "line 2: not UTF-8 .*at byte 10.; save the file as UTF-8",
    ),
    ("a.csv", "prompt\na\n\xfc\n".encode("latin-1"), "line 3: not UTF-8"),
    ("a.csv", "prompt\na\n".encode("utf-16"), "line 1: this seems to be UTF-16"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGED)
def test_damaged_and_mistaken_files_are_told_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.*({message})") as error:
        list(read_files(tmp_path / name, TEXT))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["end", "page", "header"])
def test_a_damaged_parquet_file_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"row {i}" for i in range(1000)]})
    pyarrow.parquet.write_table(table, path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    if damage == "end":
        del content[-100:]
    else:
        place = 300 if damage == "page" else 6
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.parquet: not a readable Parquet file") as error:
        list(read_files(path, TEXT))
    assert "\n" not in str(error.value)


def test_links_to_nothing_and_columns_of_one_name_do_not_vanish(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"a.jsonl: a link to a file that is not there"):
        list(read_files(tmp_path, TEXT))
    twice = pa.table([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(UserError, match="two columns are named 'text'"):
        list(read_files(tmp_path / "b.parquet", TEXT))


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list(read_files(tmp_path / "none.jsonl", TEXT))
    with pytest.raises(UserError, match="holds no file of a known kind"):
        list(read_files(tmp_path, TEXT))
