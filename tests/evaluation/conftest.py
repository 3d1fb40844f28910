"""One project of tiny models for all tests of evaluate; each test that changes something changes a copy."""

from pathlib import Path

import pytest

from tests.evaluation.tiny import save_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    save_project(root)
    return root
