"""Files of DVC's that a kill or a merge has left in pieces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dvc.exceptions import DvcException
from dvc.repo import Repo

from stages import dvc_files
from stages.config.errors import UserError
from stages.dvc_files import check_dvc_files

STAGES = """stages:
  first: {cmd: "mkdir out && echo 1 > out/one && echo run >> ran", deps: [in], outs: [out]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of a stage that has run."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setattr(dvc_files, "PATIENCE", 0.0)
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    (root / "dvc.yaml").write_text(STAGES)
    (root / "in").write_text("in")
    Repo.init(no_scm=True).close()
    reproduce()
    check_dvc_files(root)
    return root


def reproduce() -> None:
    with Repo() as repo:
        repo.reproduce()


def cut(text: str, after: str) -> str:
    return text[: text.index(after) + len(after)]


DAMAGED = [
    ("dvc.lock", lambda text: "", "`rm dvc.lock`"),
    ("dvc.lock", lambda text: cut(text, "size:"), "`rm dvc.lock`"),
    ("dvc.lock", lambda text: cut(text, "- path"), "`rm dvc.lock`"),
    ("dvc.lock", lambda text: f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n", "`rm dvc.lock`"),
    (".dvc/tmp/rwlock", lambda text: "", "`rm .dvc/tmp/rwlock`"),
    (".dvc/tmp/rwlock", lambda text: '{"/x": {"rea', "`rm .dvc/tmp/rwlock`"),
    (".dvc/tmp/rwlock", lambda text: "[]", "`rm .dvc/tmp/rwlock`"),
]


@pytest.mark.parametrize(("name", "damage", "remedy"), DAMAGED)
def test_what_dvc_cannot_read_is_named_with_a_remedy_that_helps(
    project: Path, name, damage, remedy: str
) -> None:
    file = project / name
    file.write_text(damage(file.read_text()))
    with pytest.raises(DvcException):
        reproduce()
    with pytest.raises(UserError, match=re.escape(remedy)) as error:
        check_dvc_files(project)
    assert "\n" not in str(error.value)

    file.unlink()
    check_dvc_files(project)
    reproduce()
    assert (project / "ran").read_text() == "run\n"  # and not a second time
    assert (project / "out" / "one").read_text() == "1\n"


def test_a_damaged_state_is_named_with_a_remedy_that_helps(project: Path) -> None:
    for database in (project.parent / "site").rglob("cache.db"):
        database.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"`rm \.dvc/tmp/btime`") as error:
        check_dvc_files(project)
    assert "\n" not in str(error.value)
    (project / ".dvc" / "tmp" / "btime").unlink()
    check_dvc_files(project)


def test_a_file_that_is_being_written_is_read_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text("")
    monkeypatch.setattr(dvc_files.time, "sleep", lambda _: (project / "dvc.lock").write_text(whole))
    check_dvc_files(project)


def test_a_folder_that_is_no_project_of_dvc_s(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="DVC cannot open the project: you are not inside of a DVC repository"
    ):
        check_dvc_files(tmp_path)
