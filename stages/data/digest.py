"""Digests of files: what a run was fed with, and whether a model is still the one that was seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of all files in a folder but for Python's caches."""
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path)} {file_digest(file)} ".encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (p for p in sorted(path.rglob("*")) if p.is_file() and "__pycache__" not in p.parts)
