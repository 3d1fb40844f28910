"""Digests of a folder's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.seal import first_damaged, seal


def test_digests_are_those_of_xxh3(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "folder").mkdir()
    seal(tmp_path)
    empty = "99aa06d3014798d86001c324468d497f"  # xxHash's own test vector of XXH3_128bits for no input
    assert json.loads((tmp_path / "digests.json").read_text()) == {"a": empty}
    assert first_damaged(tmp_path) is None
    seal(tmp_path)  # the digests themselves are not among them
    assert list(json.loads((tmp_path / "digests.json").read_text())) == ["a"]


DAMAGES = [
    ("b", b"abd"),
    ("b", b""),
    ("b", None),
    ("digests.json", b"{"),
    ("digests.json", b"[1]"),
    ("digests.json", None),
]


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_the_first_damaged_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    for each in ("a", "b"):
        (tmp_path / each).write_text("abc")
    seal(tmp_path)
    (tmp_path / "later").write_text("is not looked at")
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert first_damaged(tmp_path) == name
    if name == "b":
        assert first_damaged(tmp_path / "a") is None
        assert first_damaged(tmp_path / "b") == "b"
