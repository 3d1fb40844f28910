"""One digest for every file that is written down."""

from __future__ import annotations

from pathlib import Path

from stages.data.digest import file_digest, path_digest


def test_the_digest_is_the_standard_s(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4's example
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_its_names_and_contents_without_caches(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"abc")
    (tmp_path / "two" / "__pycache__").mkdir()
    (tmp_path / "two" / "__pycache__" / "file.pyc").write_bytes(b"x")
    assert path_digest(tmp_path / "one") == path_digest(tmp_path / "two")
    (tmp_path / "two" / "deep" / "file").rename(tmp_path / "two" / "deep" / "other")
    assert path_digest(tmp_path / "one") != path_digest(tmp_path / "two")
    (tmp_path / "one" / "deep" / "file").write_bytes(b"abd")
    assert path_digest(tmp_path / "one" / "deep" / "file") != path_digest(tmp_path / "two" / "deep" / "other")
