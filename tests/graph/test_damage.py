"""A damaged object of DVC's cache: the remedy that the error names is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.repo import Repo

STAGE = "stages:\n  a:\n    cmd: mkdir out && echo weights > out/model\n    outs: [out]\n"


def test_objects_that_can_be_written_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    (tmp_path / "dvc.yaml").write_text(STAGE)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        repo.reproduce()
        model = tmp_path / "out" / "model"
        (damaged,) = (file for file in (tmp_path / ".dvc/cache/files").rglob("*") if file.is_file()
                      and file.read_bytes() == b"weights\n")  # fmt: skip
        damaged.chmod(0o644)
        damaged.write_text("damaged\n")
        damaged.chmod(0o444)
        model.unlink()
        model.parent.rmdir()
        repo.checkout()
        assert model.read_text() == "damaged\n"  # which DVC does not see
        repo.reproduce()
        assert model.read_text() == "damaged\n"

        for file in (tmp_path / ".dvc" / "cache").rglob("*"):  # chmod -R u+w .dvc/cache
            file.chmod(file.stat().st_mode | 0o200)
        repo.reproduce()
        assert model.read_text() == "weights\n"
        model.unlink()
        model.parent.rmdir()
        repo.checkout()
        assert model.read_text() == "weights\n"
