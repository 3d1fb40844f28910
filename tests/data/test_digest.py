"""One digest for every file that is written down."""

from __future__ import annotations

from pathlib import Path

from stages.data.digest import file_digest


def test_the_digest_is_the_standard_s(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's example
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
