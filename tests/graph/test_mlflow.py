"""What MLflow holds after one `dvc repro`."""

from __future__ import annotations

from tests.graph.project import STAGES, Project


def test_one_parent_per_repro_and_one_child_per_stage(reproduced: Project) -> None:
    runs = reproduced.runs()
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["treeline.stage"]: run for run in runs if run not in parents}
    assert len(parents) == 1 and len(runs) == 6
    assert set(children) == set(STAGES)
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}
    assert {run.info.status for run in children.values()} == {"FINISHED"}

    rl = children["rl"]
    assert rl.data.params["rl.ppo.kl_coef"] == "0.02"
    assert rl.data.params["seed"] == "0"
    commits = reproduced.git("log", "--format=%H").split()
    assert rl.data.tags["mlflow.source.git.commit"] == commits[1]  # the one before dvc.lock was committed
    assert rl.data.tags["dvc.input.data/sft"].endswith(".dir")
    assert rl.inputs.dataset_inputs[0].dataset.name == "prompt"
    assert {"train/loss", "objective/kl_k1", "eval/gold_accuracy"} <= set(rl.data.metrics)
    assert len(reproduced.history(rl.info.run_id, "train/loss")) == 8
    assert any("config" in path for path in reproduced.artifacts(rl.info.run_id))
    assert "samples.json" in reproduced.artifacts(children["evaluate"].info.run_id)
