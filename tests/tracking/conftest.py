"""A project of its own for each test, with a real sqlite store."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig, OmegaConf

from stages.tracking.store import Store


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the runs are recorded in; `out` in it is a stage's output."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("TREELINE_PARENT", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")  # what load_table reads
    (tmp_path / "out").mkdir()
    return tmp_path


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mlflow.db without runs: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def ready(project: Path, schema: Path) -> Path:
    """The project, its store with tables in it."""
    shutil.copyfile(schema, project / "mlflow.db")
    return project


def settings(**changes: Any) -> DictConfig:
    """A config as a stage has it, with the given values under `tracking`."""
    tracking = {
        "enabled": True,
        "uri": None,
        "experiment": "treeline",
        "finish_timeout": 60,
        "drain_timeout": 60,
    }
    return OmegaConf.create({"seed": 1, "rl": {"ppo": {"kl_coef": 0.05}}, "tracking": tracking | changes})


def store(project: Path) -> Store:
    return Store(f"sqlite:///{project / 'mlflow.db'}", "treeline", project / ".spool")


def client(project: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")


def runs(project: Path) -> dict[str, Run]:
    """The runs of the project by name."""
    mlflow = client(project)
    experiment = mlflow.get_experiment_by_name("treeline")
    assert experiment is not None
    return {str(run.info.run_name): run for run in mlflow.search_runs([experiment.experiment_id])}


def waiting(project: Path) -> list[str]:
    """The runs in the spool; a hidden one is delivered, and about to be removed."""
    return [path.name for path in (project / ".spool").glob("[!.]*/")]


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
