"""One reproduced project for all tests of the graph; each test changes a copy of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.graph.project import STAGES, Project, make_project


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Every stage has run once, through dvc, accelerate, hydra and mlflow; dvc.lock is committed."""
    project = make_project(tmp_path_factory.mktemp("graph"))
    assert project.repro() == STAGES
    project.client()  # copies are made when nothing writes any more
    # Each stage's sender costs as much as the stage: from here on only the test that looks at MLflow pays for one.
    project.set(tracking__enabled=False)
    project.commit()
    return project


@pytest.fixture
def project(reproduced: Project, tmp_path: Path) -> Project:
    return reproduced.copy(tmp_path)
