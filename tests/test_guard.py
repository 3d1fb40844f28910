"""No stage outlives what asked for it, from its first moment on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stages.guard import alive, dispatcher, is_dvc, is_launcher
from tests.data.tiny import ROOT

# `python dvc COMMAND`: what its name says, as far as a process above can be known.
ABOVE = "import subprocess, sys; subprocess.run(sys.argv[1], shell=True)"
STAGE = f"{sys.executable} -m stages.sft; true"  # true: the shell stays between them, as dvc's does
IMPORTING = 3.0  # seconds, less than the imports of sft take


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a program of a given name above a command, in a process group of its own that the test ends."""
    groups = []

    def start(name: str, command: str, **own: str) -> subprocess.Popen[bytes]:
        (tmp_path / name).write_text(ABOVE)
        foreign = ("DVC_STAGE", "TREELINE_DISPATCHER")
        clean = {key: value for key, value in os.environ.items() if key not in foreign}
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(tmp_path / name), command],
                cwd=ROOT, env=clean | own, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        groups.append(process.pid)
        return process

    yield start
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def stage_below(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The stage, as soon as it imports: it has begun again with its allocator, and looked above itself."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children(recursive=True):
            importing = "libtorch" in Path(f"/proc/{child.pid}/maps").read_text()
            if importing and child.cmdline()[1:3] == ["-m", "stages.sft"]:
                return child
        time.sleep(0.01)
    raise AssertionError("no stage has begun")


def ends(process: psutil.Process) -> bool:
    deadline = time.monotonic() + IMPORTING
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(process)


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="its memory map shows what it has imported")


@on_linux
@pytest.mark.parametrize(
    ("name", "own"),
    [("dvc", {"DVC_STAGE": "sft"}), ("accelerate-launch", {})],
)
def test_what_dies_while_a_stage_imports_takes_the_stage_along(
    started: Callable[..., subprocess.Popen[bytes]], name: str, own: dict[str, str]
) -> None:
    command = STAGE if own else f"exec {STAGE.split(';')[0]}"  # a launcher is right above the stage
    process = started(name, command, **own)
    stage = stage_below(process)
    process.kill()
    process.wait()
    assert ends(stage)


@on_linux
def test_a_sweep_that_is_stopped_takes_its_stages_along(
    started: Callable[..., subprocess.Popen[bytes]],
) -> None:
    process = started("sweep", f"TREELINE_DISPATCHER=$PPID {STAGE}")
    stage = stage_below(process)
    process.kill()
    process.wait()
    assert ends(stage)


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"DVC_STAGE": "sft"}, "error: DVC_STAGE is set, and no dvc is above this process: "),
        ({"TREELINE_DISPATCHER": "999999"}, "error: the sweep that asked for this stage was stopped\n"),
    ],
)
def test_a_stage_that_begins_when_what_asked_for_it_is_gone_ends(own: dict[str, str], reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.sft"],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(reason) and done.stderr.count("\n") == 1


def test_what_outlives_a_stage_is_not_ended() -> None:
    """The sender of its metrics: the stage, and dvc, may be gone when it begins."""
    command = [
        sys.executable,
        "-m",
        "stages.tracking.curves",
    ]  # of one depth with stages.tracking.sender, and light
    assert subprocess.run(command, cwd=ROOT, env={**os.environ, "DVC_STAGE": "sft"}).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "yes"),
    [
        (["dvc", "repro"], True),
        (["/venv/bin/python", "/venv/bin/dvc", "repro"], True),
        (["/venv/bin/python3", "-m", "dvc", "exp", "run"], True),
        (["python3.12", "-X", "dev", "-I", "-m", "dvc", "repro"], True),
        (["Python", "-u", "/venv/bin/dvc", "repro"], True),
        (["bash", "-c", "dvc repro"], False),
        (["python", "-m", "stages.rl"], False),
        (["python", "-c", "import dvc", "dvc"], False),
        (["vim", "notes", "dvc"], False),
        ([], False),
    ],
)
def test_dvc_is_known_by_its_command_line(arguments: list[str], yes: bool) -> None:
    assert is_dvc(arguments) is yes


@pytest.mark.parametrize(
    ("arguments", "yes"),
    [
        (["/venv/bin/python", "/venv/bin/accelerate-launch", "--quiet", "-m", "stages.rl"], True),
        (["/venv/bin/python", "-m", "accelerate.commands.launch", "-m", "stages.rl"], True),
        (["/venv/bin/python", "/venv/bin/torchrun", "-m", "stages.rl"], True),
        (["python", "-m", "stages.rl"], False),
        (["bash"], False),
    ],
)
def test_a_launcher_is_known_by_its_command_line(arguments: list[str], yes: bool) -> None:
    assert is_launcher(arguments) is yes


def test_a_job_on_another_machine_ends_with_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_DISPATCHER", str(os.getppid()))
    assert dispatcher() == os.getppid()
    monkeypatch.setenv("TREELINE_DISPATCHER", "999999")
    assert dispatcher() == os.getpid()
