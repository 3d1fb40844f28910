"""Two real processes: the same data make the same steps as one, and every stage comes to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.tracking.curves import read_curves
from tests.graph.project import STAGES, Project, make_project

LAUNCH = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_processes: 2
num_machines: 1
machine_rank: 0
"""
# Of its own kinds, accelerate starts several processes on CPUs through MPI alone, and one where there is no MPI.
TWO = {"TREELINE_LAUNCH": "two", "ACCELERATE_USE_CPU": "true"}


def losses(project: Project, stage: str) -> list[float]:
    return [value for _, value in read_curves(project.root / "data" / stage / "curves.csv")["train/loss"]]


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    """grpo, with the marker of reward_model: what the learned reward does not share with it is sft's loop."""
    project = make_project(tmp_path)
    project.set(tracking__enabled=False, rl__algo="grpo")
    project.repro("sft")
    alone = losses(project, "sft")
    (project.root / "conf" / "launch" / "two.yaml").write_text(LAUNCH)
    for stage in ("sft", "reward_model", "rl", "evaluate"):
        project.dvc("repro", "--force", "--single-item", stage, **TWO)
    assert len(alone) == 8
    assert losses(project, "sft") == pytest.approx(alone, rel=1e-4)
    assert all((project.root / "data" / stage).is_dir() for stage in STAGES)
    assert project.metrics("evaluate")["rl"]["gold_accuracy"]


def test_two_processes_share_the_reference_s_work(tmp_path: Path) -> None:
    """Each scores a part of the microbatches and looks up what the other scored."""
    project = make_project(tmp_path)
    project.set(tracking__enabled=False, rl__algo="dpo")
    project.repro("rl")
    alone = losses(project, "rl")
    (project.root / "conf" / "launch" / "two.yaml").write_text(LAUNCH)
    for known in (False, True):
        output = project.dvc("repro", "--force", "--single-item", "rl", **TWO)
        assert ("completions are known" in output) == known
        assert losses(project, "rl") == pytest.approx(alone, rel=1e-4)
    tables = list((project.root / ".checkpoints" / "reference").iterdir())
    assert len(tables) == 2  # two processes, other microbatches
