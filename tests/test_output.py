"""Where a stage writes: nothing is removed that the project did not make."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from stages import output
from stages.config.compose import ROOT, compose_config
from stages.config.errors import UserError
from stages.disk import removed
from stages.output import (
    begin,
    check_folder,
    check_input,
    check_later,
    check_no_inputs,
    check_output,
    discard,
    partial_of,
    put_in_place,
)


def made(final: Path, text: str = "new") -> Path:
    """An output that is whole, but not yet in its place."""
    begin(final)
    (partial_of(final) / "model").mkdir()
    (partial_of(final) / "model" / "weights").write_text(text)
    return final


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["sft", ".sft.partial"])
def test_what_the_project_did_not_make_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    check_output(tmp_path / "sft")  # an empty folder holds nothing
    (tmp_path / name / "metrics.json").write_text("mine")
    with pytest.raises(UserError, match=f"{name} is not an output of this project") as error:
        check_output(tmp_path / "sft")
    assert "\n" not in str(error.value)
    discard(tmp_path / name)
    assert (tmp_path / name / "metrics.json").read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "link", "broken link"])
def test_a_file_or_a_link_is_not_replaced(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mine").mkdir()
    if kind == "file":
        (tmp_path / "sft").write_text("mine")
    else:
        (tmp_path / "sft").symlink_to(tmp_path / ("mine" if kind == "link" else "none"))
    with pytest.raises(UserError, match="sft is not an output"):
        check_output(tmp_path / "sft")


def test_an_output_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    final = tmp_path / "sft"
    for text in ("old", "new"):
        check_output(final)
        put_in_place(made(final, text))
        assert (final / "model" / "weights").read_text() == text
        assert names(tmp_path) == ["sft"]


def test_what_a_kill_leaves_at_any_moment_is_an_output_whole_or_removable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each call that changes a folder, in turn, until one replacement comes to its end."""

    class Killed(BaseException):
        pass

    calls = [(Path, name) for name in ("rename", "unlink", "rmdir", "mkdir", "write_text")] + [
        (shutil, "rmtree")
    ]
    put_in_place(made(tmp_path / "sft", "old"))
    for moment in range(100):
        left = moment
        with monkeypatch.context() as patch:

            def counted(call: Any) -> Any:
                def count(*arguments: Any, **named: Any) -> Any:
                    nonlocal left
                    if left == 0:
                        raise Killed
                    left -= 1
                    return call(*arguments, **named)

                return count

            for owner, name in calls:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                put_in_place(made(tmp_path / "sft"))
                break
            except Killed:
                pass
        check_output(tmp_path / "sft")
        weights = [tmp_path / name / "model" / "weights" for name in ("sft", removed(tmp_path / "sft").name)]
        assert any(path.exists() for path in weights)
    assert moment > 8 and left == 0
    assert names(tmp_path) == ["sft"]


def test_a_folder_that_appears_while_the_stage_runs_is_not_replaced(tmp_path: Path) -> None:
    final = made(tmp_path / "sft")
    final.mkdir()
    (final / "mine").touch()
    with pytest.raises(UserError, match=r"its output is in .*\.sft\.partial"):
        put_in_place(final)
    assert names(final) == ["mine"]
    assert (partial_of(final) / "model" / "weights").exists()


@pytest.mark.parametrize(
    "folder",
    ["data/sft", "data/prepare/x/sft", "data/raw/sft", "stages/models/rl"],
)
def test_a_run_by_hand_does_not_write_into_what_dvc_watches(folder: str) -> None:
    with pytest.raises(UserError, match="what DVC watches: choose another hydra.run.dir or hydra.sweep.dir"):
        check_folder(ROOT / folder, compose_config())


def test_nor_into_what_dvc_add_tracks(tmp_path: Path) -> None:
    config = compose_config()
    check_folder(tmp_path / "mine" / "sft", config)
    (tmp_path / "mine.dvc").touch()
    with pytest.raises(UserError, match="is part of .*mine, what DVC watches"):
        check_folder(tmp_path / "mine" / "sft", config)


def test_dvc_does_not_clear_a_folder_of_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "ROOT", tmp_path)
    put_in_place(made(tmp_path / "data" / "sft"))
    (tmp_path / "data" / "rl").mkdir()
    for name in ("metrics.json", "curves.csv", "more"):  # as stages wrote before there was a mark
        (tmp_path / "data" / "rl" / name).touch()
    check_later(["prepare", "sft", "rl"])
    (tmp_path / "data" / "evaluate").mkdir()
    (tmp_path / "data" / "evaluate" / "train.jsonl").touch()
    check_later(["prepare", "sft", "rl"])
    with pytest.raises(
        UserError, match="evaluate is not what the stage evaluate has made, and DVC would remove it"
    ):
        check_later(["rl", "evaluate"])


def test_an_input_is_the_output_of_its_stage(tmp_path: Path) -> None:
    put_in_place(made(tmp_path / "sft"))
    check_input(tmp_path / "sft", "sft")
    with pytest.raises(UserError, match=r"run\.inputs\.rl: .*sft is the output of sft, not of rl"):
        check_input(tmp_path / "sft", "rl")
    with pytest.raises(UserError, match=r"none is missing: `dvc repro sft` makes it"):
        check_input(tmp_path / "none", "sft")
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"run\.inputs\.reward_model: .* it has no model or marker\.json"):
        check_input(tmp_path / "mine", "reward_model")
    (tmp_path / "mine" / "model").mkdir()
    check_input(tmp_path / "mine", "sft")  # a model of the user's own


def test_under_dvc_a_stage_reads_what_dvc_watches() -> None:
    check_no_inputs(OmegaConf.create({"run": {"inputs": {}}}))
    with pytest.raises(UserError, match="run.inputs is for stages that are run by hand"):
        check_no_inputs(OmegaConf.create({"run": {"inputs": {"sft": "x"}}}))


def test_make_clean_keeps_what_no_stage_has_made(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    put_in_place(made(tmp_path / "data" / "rl"))
    begin(tmp_path / "data" / "evaluate")
    (tmp_path / "data" / "prepare").mkdir()
    (tmp_path / "data" / "sft").mkdir()
    (tmp_path / "data" / "sft" / "train.jsonl").touch()
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "kept: data/sft, which no stage has made" in done.stdout
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "Makefile", "data", "data/sft", "data/sft/train.jsonl",
    ]  # fmt: skip
