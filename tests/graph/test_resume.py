"""A stage that is killed goes on from its last checkpoint and ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stages.guard import alive
from tests.graph.project import Project

LONG = {"max_steps": 12}
PASSES = {
    "ppo": {"num_ppo_epochs": 2, "num_mini_batches": 2},
    "grpo": {"num_iterations": 2, "num_mini_batches": 2},
}
ENDLESS = {"max_steps": 100_000}
QUIET = {"run": {"save_steps": 1}, "tracking": {"enabled": False}}


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def start_until_checkpoint(project: Project, stage: str) -> subprocess.Popen[str]:
    """`dvc repro` up to one stage, in a process group of its own."""
    process = project.start(sys.executable, "-m", "dvc", "repro", stage, start_new_session=True)
    wait_for(lambda: checkpoints(project, stage) or process.poll() is not None, 300)
    assert process.poll() is None, process.communicate()[0]
    return process


def checkpoints(project: Project, stage: str) -> list[Path]:
    return list((project.root / ".checkpoints" / stage).glob("*/step-*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("stage", "algorithm"),
    [("sft", "ppo"), ("rl", "ppo"), ("rl", "grpo"), ("rl", "dpo")],
    ids=lambda part: part,
)
def test_killed_and_resumed_is_bit_identical(
    project: Project, tmp_path: Path, stage: str, algorithm: str
) -> None:
    block = "sft" if stage == "sft" else f"rl__{algorithm}"
    project.set(
        rl__algo=algorithm, **QUIET, **{block: LONG | PASSES.get(algorithm, {}) if stage == "rl" else LONG}
    )
    if stage == "rl":
        project.repro("reward_model")
    other = project.copy(tmp_path / "other")  # with a cache of its own, where the result is not known
    project.repro(stage)
    whole = contents(project.root / "data" / stage)
    assert checkpoints(project, stage) == []  # a finished stage needs none

    process = start_until_checkpoint(other, stage)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (other.root / "data" / stage).exists()
    assert checkpoints(other, stage)

    assert "going on from step" in other.dvc("repro", stage)
    resumed = contents(other.root / "data" / stage)
    assert resumed["model/model.safetensors"] == whole["model/model.safetensors"]
    assert resumed == whole  # the curves, too


def test_a_stage_does_not_outlive_its_dvc_and_none_runs_beside_it(project: Project) -> None:
    project.set(sft=ENDLESS, **QUIET)
    process = start_until_checkpoint(project, "sft")
    below = psutil.Process(process.pid).children(recursive=True)
    stages = [child for child in below if "stages.sft" in child.cmdline()]
    assert stages
    above = project.root.parent / "dvc"  # a stage of dvc's with no dvc above it would end
    above.write_text("import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))")
    output = project.python(str(above), sys.executable, "-m", "stages.sft", code=2, DVC_STAGE="sft")
    assert "error: another run of sft is at work here" in output

    process.kill()  # dvc alone
    process.wait()
    wait_for(lambda: not any(alive(stage) for stage in stages), 20)
    assert not (project.root / "data" / "sft").exists()
