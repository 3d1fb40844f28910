"""The door before `dvc repro`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from stages import check
from stages.config.errors import UserError
from stages.data import base_model
from stages.data.base_model import find_base_model, write_base_model
from tests.data.tiny import save_tiny_model


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the project's."""
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(base_model, "ROOT", tmp_path)
    return tmp_path


def model(path: str) -> DictConfig:
    return OmegaConf.create({"model": {"path": path, "revision": None, "trust_remote_code": False}})


def prepared(root: Path, path: str) -> Path:
    """A model that prepare has seen."""
    (root / "data" / "prepare").mkdir(parents=True)
    folder = save_tiny_model(root / path)
    write_base_model(root / "data" / "prepare", find_base_model(model(path).model)[0])
    return folder


def test_a_model_that_changed_or_went_since_prepare_is_refused(root: Path) -> None:
    folder = prepared(root, "models/a")
    check.check_model(model("models/a"))
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="the content of .*models/a has changed since prepare ran"):
        check.check_model(model("models/a"))


def test_another_model_than_the_one_that_prepare_saw_is_not_held_against_it(root: Path) -> None:
    shutil.rmtree(prepared(root, "models/a"))
    save_tiny_model(root / "models" / "b")
    check.check_model(model("models/b"))
    with pytest.raises(UserError, match="there is no model folder models/a"):
        check.check_model(model("models/a"))
