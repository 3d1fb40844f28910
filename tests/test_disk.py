"""Removals that leave no half, and one line where a disk cannot be written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.config.errors import UserError
from stages.disk import remove, size, sweep, writing
from tests.data.tiny import tiny_tokenizer
from tests.full_disk import file_limit


def told(path: Path, work: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught, writing(path, 3 * 10**9, lambda: "the next run goes on"):
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fill() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x")  # fails when the file is closed, without a name


def fail_because_of(error: Exception) -> None:
    try:
        raise error
    except type(error) as cause:
        raise RuntimeError("the library's own words") from cause


def test_a_full_disk_is_named_with_what_is_needed_and_free(tmp_path: Path) -> None:
    line = told(tmp_path, fill)
    assert ": No space left on device: up to 3.0 GB are needed and " in line
    assert line.endswith(" GB are free; make room, and the next run goes on")


def test_what_rust_says_in_words_is_understood(tmp_path: Path) -> None:
    model, tokenizer = {"x": torch.zeros(10**5)}, tiny_tokenizer()
    with file_limit(2**12):
        assert "File too large" in told(tmp_path, lambda: save_file(model, tmp_path / "model.safetensors"))
        assert "File too large" in told(tmp_path, lambda: tokenizer.save_pretrained(str(tmp_path)))


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (errno.EROFS, "a/b: Read-only file system; make it writable, and the next run goes on"),
        (errno.EACCES, "a/b: Permission denied; change its permissions, and the next run goes on"),
        (errno.EPERM, "a/b: Operation not permitted; change its permissions, and the next run goes on"),
    ],
)
def test_a_place_that_refuses_is_named(code: int, line: str, tmp_path: Path) -> None:
    """Directly, and as the cause of another error. Root meets none of these in an ordinary folder."""
    error = OSError(code, os.strerror(code), "a/b")
    assert told(tmp_path, lambda: fail_because_of(error)) == line


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone", "a"), ValueError("x"), UserError("y")):
        with pytest.raises(type(error)) as caught, writing(tmp_path, 0, str):
            raise error
        assert caught.value is error


def test_an_error_that_was_raised_in_the_place_of_another_is_its_own(tmp_path: Path) -> None:
    """`from None` says that the first one has nothing to do with it."""
    with pytest.raises(ValueError, match="ours"), writing(tmp_path, 0, str):
        try:
            raise PermissionError(errno.EACCES, "denied", "/some/lock")
        except PermissionError:
            raise ValueError("ours") from None


def test_what_a_killed_removal_left_goes_with_the_next(tmp_path: Path) -> None:
    for name in ("a", ".a.removed-by-treeline", ".b.removed-by-treeline", ".c.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("four")
    assert size([tmp_path / "a", tmp_path / "no such folder"]) == 4
    assert size([tmp_path]) == 16
    remove(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.removed-by-treeline", ".c.removed"]
    remove(tmp_path / "a")  # there is none
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".c.removed"]
