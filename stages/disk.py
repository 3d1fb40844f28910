"""The disk: what is removed leaves no half behind, what is written is there after a power cut, and where it cannot be
written one line says why."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub.constants import HF_HOME

from stages.config.errors import UserError

REMOVED = ".removed-by-treeline"
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = {
    errno.EROFS: "make it writable",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f, or the file system's own)",
}
OF_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers say it in words alone


class Unwritable(UserError):
    """A disk is full, or a place may not be written to."""


def write_out(*paths: Path) -> None:
    """Wait until files, or the names in folders, are on the disk, for a power cut to leave them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder that is whole until then. It is renamed first: a kill leaves it all, or nothing of that name."""
    trash = removed(path)
    shutil.rmtree(trash, ignore_errors=True)
    with suppress(FileNotFoundError):
        path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def removed(path: Path) -> Path:
    """What `path` is called while `remove` is at it, and for good if that is killed."""
    return path.with_name(f".{path.name}{REMOVED}")


def sweep(folder: Path) -> None:
    """Remove what killed removals left in a folder."""
    for trash in folder.glob(f".*{REMOVED}"):
        shutil.rmtree(trash, ignore_errors=True)


def size(paths: Iterable[Path]) -> int:
    """Bytes of all files in these folders; of one that is not there, none."""
    return sum(_size(file) for path in paths for file in path.rglob("*") if not file.is_symlink())


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:  # another run has removed it
        return 0


def free(path: Path) -> int:
    """Bytes that are free where `path` is, or is going to be."""
    return shutil.disk_usage(next(each for each in [path, *path.parents] if each.exists())).free


def amount(size: int) -> str:
    """For people."""
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.1f} MB"


@contextmanager
def writing(path: Path, needed: int, then: Callable[[], str]) -> Iterator[None]:
    """Raise Unwritable where this block meets a full disk or a place that it may not write to: with the file's name or,
    where the system does not tell it, `path` or the fullest of the places that libraries write to. `needed` is in
    bytes; `then` says what comes next."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (found := _refusal(error)) is None:
            raise
        code, name = found
        places = [Path(name)] if name else [path, Path(HF_HOME), Path(tempfile.gettempdir())]
        where = min(places, key=free) if code in FULL else places[0]
        wish = f"up to {amount(needed)} are needed and " if needed else ""
        room = f": {wish}{amount(free(where))} are free"
        remedy = REFUSED.get(code, "make room")
        raise Unwritable(
            f"{where}: {os.strerror(code)}{room if code in FULL else ''}; {remedy}, and {then()}"
        ) from error


def _refusal(error: BaseException | None) -> tuple[int, str | None] | None:
    """The system's code, and the file that it names, of the first such error that led to this one."""
    while error is not None:
        words = OF_RUST.search(str(error))
        code = error.errno if isinstance(error, OSError) else int(words[1]) if words else None
        if code in FULL or code in REFUSED:
            name = error.filename if isinstance(error, OSError) else None
            return code, None if name is None else os.fsdecode(name)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None
