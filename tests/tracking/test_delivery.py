"""Spool, sender and MLflow together: the real store, the real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.tracking import start_tracker
from stages.tracking.delivery import deliver
from stages.tracking.spool import Spool
from stages.tracking.tracker import Tracker
from tests.tracking.conftest import client, runs, settings, store, wait_for, waiting
from tests.tracking.event import start_event

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),  # the sender may be
]

ROOT = Path(__file__).parents[2]
STAGE = """
import os, signal, sys
from pathlib import Path
from stages.tracking import start_tracker
from tests.tracking.conftest import settings
tracker = start_tracker(sys.argv[1], settings(), Path(os.environ["DVC_ROOT"]) / "out")
tracker.log({"train/loss": 0.5}, step=3)
if "killed" in sys.argv: os.kill(os.getpid(), signal.SIGKILL)
tracker.finish()
"""


def stage(*arguments: str) -> subprocess.Popen:
    """A stage of its own process, in the project that DVC_ROOT names."""
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, *arguments], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_a_run_arrives_whole(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_PARENT", "grid-1")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")  # MLflow would write into this run instead of ours
    tracker = start_tracker("sft", settings(), project / "out")
    tracker.log({"train/loss": 2.0, "perf/tokens_per_second": 800.0}, step=0)
    tracker.log({"train/loss": 1.5}, step=1)
    tracker.log_summary({"eval/rl/gold_accuracy": 0.66})
    tracker.log_dataset("sft", "ab" * 32, rows=1000)
    tracker.log_table("samples", [{"prompt": "1 + 1", "sft": "2"}, {"prompt": "2 + 2", "sft": "5"}])
    tracker.log_artifact(project / "out")
    tracker.finish()
    assert waiting(project) == []  # finish has waited for the delivery

    found, mlflow = runs(project), client(project)
    child, parent = found["sft"], found["sweep"]
    assert child.info.status == parent.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["rl.ppo.kl_coef"] == "0.05"
    assert len(child.data.tags["mlflow.source.git.commit"]) == 40
    assert child.data.metrics["perf/tokens_per_second"] == 800.0
    assert child.data.metrics["eval/rl/gold_accuracy"] == 0.66
    assert (project / "out" / "curves.csv").read_text() == "step,train/loss\n0,2.0\n1,1.5\n"
    history = mlflow.get_metric_history(child.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 2.0), (1, 1.5)]
    assert child.inputs is not None
    (dataset,) = [entry.dataset for entry in child.inputs.dataset_inputs]
    assert dataset.name == "sft" and json.loads(str(dataset.profile)) == {
        "num_rows": 1000,
        "digest": "ab" * 32,
    }
    assert {file.path for file in mlflow.list_artifacts(child.info.run_id)} == {
        "config.yaml",
        "samples.json",
        "out",
    }
    assert len(mlflow.load_table("1", "samples.json", [child.info.run_id])) == 2


def test_a_second_delivery_changes_nothing(ready: Path) -> None:
    spool = Spool(ready / ".spool", start_event(), finish_timeout=0.0)
    tracker = Tracker([spool])
    tracker.log({"train/loss": 2.0}, step=0)
    tracker.log_table("samples", [{"prompt": "1 + 1"}])
    tracker.finish()
    again = ready / ".spool" / "again"
    shutil.copytree(spool.folder, again)

    assert deliver(spool.folder, store(ready))
    before = runs(ready)["sft"]
    assert deliver(again, store(ready))
    after = runs(ready)["sft"]
    assert len(runs(ready)) == 1
    assert after.to_dictionary() == before.to_dictionary()
    assert len(client(ready).get_metric_history(after.info.run_id, "train/loss")) == 1
    assert len(client(ready).load_table("1", "samples.json", [after.info.run_id])) == 1


def test_rows_of_a_table_may_lack_a_column(ready: Path) -> None:
    """Not every prompt has an answer to show beside the models' own."""
    spool = Spool(ready / ".spool", start_event(), finish_timeout=0.0)
    tracker = Tracker([spool])
    rows = [
        {"prompt": "1 + 1", "sft": "2"},
        {"prompt": "2 + 2", "answer": "4", "sft": "5"},
        {"prompt": "3 + 3"},
    ]
    tracker.log_table("samples", rows)
    tracker.finish()
    assert deliver(spool.folder, store(ready))
    run = runs(ready)["sft"].info.run_id
    table = json.loads(Path(client(ready).download_artifacts(run, "samples.json")).read_text())
    assert table["columns"] == ["prompt", "sft", "answer"]
    assert table["data"] == [["1 + 1", "2", None], ["2 + 2", "5", "4"], ["3 + 3", None, None]]


def test_a_killed_run_is_marked(ready: Path) -> None:
    assert stage("rl", "killed").wait() == -signal.SIGKILL
    wait_for(lambda: waiting(ready) == [])
    run = runs(ready)["rl"]
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"train/loss": 0.5}


def test_six_at_once_on_a_fresh_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_PARENT", "grid-1")
    names = [f"job-{i}" for i in range(6)]
    assert [process.wait() for process in [stage(name) for name in names]] == [0] * 6
    wait_for(lambda: waiting(project) == [])
    found = runs(project)
    assert sorted(found) == [*names, "sweep"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert all(found[name].data.metrics == {"train/loss": 0.5} for name in names)


def test_other_ranks_and_no_tracking_leave_no_spool(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = start_tracker("sft", settings(enabled=False), project / "out")
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.finish()
    assert (project / "out" / "curves.csv").read_text() == "step,train/loss\n1,1.0\n"
    (project / "out" / "curves.csv").unlink()
    monkeypatch.setenv("RANK", "1")
    tracker = start_tracker("sft", settings(), project / "out")
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.finish()
    assert list((project / "out").iterdir()) == []
    assert not (project / ".spool").exists()
