"""Kills at random moments, through the real dvc: whatever they hit, the next run ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.graph.project import Project
from tests.graph.test_resume import QUIET, checkpoints, contents, wait_for

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "30"))
FORCED = ["-m", "dvc", "repro", "--force", "--single-item", "sft"]


def start(project: Project) -> subprocess.Popen[str]:
    """One stage, up to its first checkpoint."""
    process = project.start(sys.executable, *FORCED, start_new_session=True)
    wait_for(lambda: checkpoints(project, "sft") or process.poll() is not None, 300)
    assert process.poll() is None, process.communicate()[0]
    return process


@pytest.mark.chaos
def test_killed_over_and_over_a_stage_ends_with_the_same_bits(project: Project) -> None:
    """Each round kills one run between its first checkpoint and its end, damages what is left now and then, and lets
    the next run end."""
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(10**6)))
    chance = random.Random(seed)
    project.set(sft={"max_steps": 40}, **QUIET)
    output = project.root / "data" / "sft"
    process, began = start(project), time.monotonic()
    wait_for(output.exists, 300)
    length = time.monotonic() - began
    process.communicate()
    assert process.returncode == 0
    whole, lock = contents(output), project.root / "dvc.lock"
    known = lock.read_bytes()
    for number in range(ROUNDS):
        process = start(project)
        time.sleep(chance.uniform(0, 1.1 * length))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        lock.write_bytes(known)  # DVC's own files may be cut by a kill: `make check` says so
        (project.root / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
        left = [path for folder in checkpoints(project, "sft") for path in folder.iterdir()]
        if left and chance.random() < 0.3:
            chance.choice(left).write_bytes(b"")
        print(f"seed {seed}, round {number}: {sorted({path.parent.name for path in left})} left")
        project.python(*FORCED)
        assert contents(output) == whole, f"seed {seed}, round {number}"
        assert checkpoints(project, "sft") == []
