"""Files that no reader would come to the end of, or say a helpful word about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.config.errors import UserError
from stages.config.yaml_text import check_yaml

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = [
    (
        "seed: 1\n# größer\n".encode("latin-1"),
        "params.yaml, line 2: this is not UTF-8; save the file in that encoding",
    ),
    ("seed: 1\n".encode("utf-16"), "params.yaml, line 1: this is not UTF-8"),
    ("seed: 1\n".encode("utf-16-le"), "params.yaml cannot be read: "),
    (LAUGHS.encode(), "params.yaml, line 5: more than 10000 values, with all aliases written out"),
    (b"a: &a {b: {c: *a}}\n", "params.yaml, line 1: *a stands for what it is a part of"),
    (b"a: " + b"[" * 5000 + b"]" * 5000, "params.yaml, line 1: nested more than 32 deep"),
    (b"a: " + b"{b: " * 5000, "params.yaml"),
    (b"seed:\t1\n\tb: 2\n", "params.yaml cannot be read: "),
    (b"- a\n", "params.yaml must hold sections of keys and values"),
    (b"\x00\x01\x02", "params.yaml cannot be read: "),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=lambda part: str(part[:20]))
def test_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        check_yaml(tmp_path / "file", "params.yaml")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "text", ["", "# no\n", "a: &a {b: 1}\nc: {<<: *a}\nd: *a\n", "a: größer\n", "\ufeffa: 1\n"]
)
def test_what_can_be_read_passes(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    check_yaml(tmp_path / "file", "params.yaml")
