"""Experiments and sweeps: `dvc exp run`, a queued grid, and Hydra's multirun."""

from __future__ import annotations

import json
import re

from tests.graph.project import Project


def test_an_experiment_runs_what_its_value_reaches(project: Project) -> None:
    before = project.metrics("rl")
    output = project.dvc("exp", "run", "-S", "rl.ppo.kl_coef=2.0")
    assert re.findall(r"Running stage '(\w+)'", output) == ["rl", "evaluate"]
    assert project.metrics("rl") != before
    assert "kl_coef: 2.0" in (project.root / "params.yaml").read_text()


def test_a_queued_grid_gives_each_point_its_own_result(project: Project) -> None:
    """Each runs in a workspace of its own, where DVC_ROOT names the parent: reading params.yaml through that trained
    every point with the parent's value."""
    project.dvc("exp", "run", "--queue", "-S", "rl.ppo.kl_coef=1.0,4.0")
    project.dvc("exp", "run", "--run-all", "--jobs", "1")
    shown = json.loads(project.dvc("exp", "show", "--json"))
    points = {}
    for experiment in (e for baseline in shown for e in baseline["experiments"] or []):
        data = experiment["revs"][0]["data"]
        kl_coef = data["params"]["params.yaml"]["data"]["rl"]["ppo"]["kl_coef"]
        points[kl_coef] = data["metrics"]["data/rl/metrics.json"]["data"]
    assert set(points) == {1.0, 4.0}
    assert points[1.0] != points[4.0]
    assert project.metrics("rl") not in points.values()
    assert project.git("status", "--porcelain") == ""


def test_a_sweep_runs_each_job_in_its_own_folder_and_leaves_what_dvc_tracks(project: Project) -> None:
    before = project.metrics("rl"), project.metrics("evaluate")
    printed = project.python("-m", "stages.rl", "-m", "rl.ppo.kl_coef=0.02,2.0", "tracking.enabled=true")
    for text in ("rl of each job", "rl.ppo.kl_coef=0.02", "rl.ppo.kl_coef=2.0", "accuracy", "make ui"):
        assert text in printed
    jobs = sorted((project.root / "multirun").glob("*/*/[0-9]"))
    assert [sorted(path.name for path in job.iterdir() if path.is_dir()) for job in jobs] == [
        ["evaluate", "rl"]
    ] * 2
    first, second = (
        [json.loads((job / stage / "metrics.json").read_text()) for stage in ("rl", "evaluate")]
        for job in jobs
    )
    assert tuple(first) == before  # by hand or by dvc, the same values give the same numbers
    assert second[0] != first[0]

    assert (project.metrics("rl"), project.metrics("evaluate")) == before
    assert project.git("status", "--porcelain") == ""
    assert project.status() == {}
    children = [run for run in project.runs() if run.data.tags.get("mlflow.parentRunId")]
    sweep = [
        run for run in children if run.data.tags["mlflow.runName"].endswith(("kl_coef=0.02", "kl_coef=2.0"))
    ]
    assert sorted(run.data.tags["treeline.stage"] for run in sweep) == ["evaluate", "evaluate", "rl", "rl"]
    assert len({run.data.tags["mlflow.parentRunId"] for run in sweep}) == 1
    assert {run.data.params["rl.ppo.kl_coef"] for run in sweep} == {"0.02", "2.0"}


def test_a_job_that_fails_does_not_stop_the_others(project: Project) -> None:
    printed = project.python("-m", "stages.evaluate", "-m", "evaluate.temperature=-1,0.0", code=1)
    assert "evaluate.temperature: " in printed
    assert "job 0 failed in evaluate: evaluate.temperature=-1" in printed
    assert len(list((project.root / "multirun").glob("*/*/1/evaluate/metrics.json"))) == 1


def test_a_mistyped_sweep_is_refused(project: Project) -> None:
    output = project.python("-m", "stages.rl", "-m", "rl.ppo.kl_coeff=0.02,2.0", code=2)
    assert output == "error: command line: unknown key 'rl.ppo.kl_coeff'; did you mean 'kl_coef'?\n"
    assert not (project.root / "multirun").exists()
