"""A folder that stands for the project's root as far as params.yaml goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.config import compose


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compose, "ROOT", tmp_path)
    monkeypatch.setenv("PROJECT_ROOT", "")  # put back after the test: composing sets it
    return tmp_path
