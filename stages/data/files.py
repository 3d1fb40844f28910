"""Rows out of files: JSONL, JSON, CSV and Parquet, or a folder of them."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from stages.config.errors import UserError
from stages.data.json_files import read_json, read_jsonl
from stages.data.model_files import POINTER
from stages.data.records import Row
from stages.data.tables import read_csv, read_parquet

Reader = Callable[[Path, set[str]], Iterator[Row]]
GZIP = b"\x1f\x8b"
NAMED = 5  # files of other kinds that the log names

log = logging.getLogger(__name__)


def read_files(path: Path, text_columns: set[str]) -> Iterator[Row]:
    """The rows of a file, or of every readable file under a folder in the order of their names.

    text_columns: CSV columns to read as text even where they look like numbers.
    Raises UserError naming the file, and the line where there are lines.
    """
    for file in _files(path):
        try:
            _check_head(file)
            yield from READERS[_suffix(file)](file, text_columns)
        except (EOFError, zlib.error) as error:
            raise UserError(f"{file}: the file is cut off or damaged ({error}); fetch it again") from error
        except OSError as error:  # among them gzip's own
            raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_file():
        if _suffix(path) not in READERS:
            raise UserError(f"{path}: cannot read this kind of file; known are {', '.join(READERS)}")
        return [path]
    visible = [
        p
        for p in sorted(path.rglob("*"))
        if not any(part.startswith(".") for part in p.relative_to(path).parts) and not p.is_dir()
    ]
    files = [p for p in visible if _suffix(p) in READERS]
    if not files:
        raise UserError(f"{path}: the folder holds no file of a known kind ({', '.join(READERS)})")
    if others := [p.name for p in visible if p not in set(files)]:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        log.info("%s: not read, of another kind: %s%s", path, ", ".join(others[:NAMED]), more)
    return files


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def _check_head(path: Path) -> None:
    """What a file's first bytes say that its name does not."""
    if not path.exists():
        raise UserError(f"{path}: a link to a file that is not there")
    with path.open("rb") as file:
        head = file.read(len(POINTER))
    if not head:
        raise UserError(f"{path}: the file is empty")
    if head == POINTER:
        raise UserError(f"{path}: a pointer of git-lfs, not the data: `git lfs pull` fetches them")
    if head.startswith(GZIP) and path.suffix.lower() != ".gz":
        raise UserError(f"{path}: compressed by gzip; name it {path.name}.gz")


READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
