"""A stage that is killed at any of its calls to the file system, or that meets a full disk, can be run again."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf
from safetensors.torch import save_file

from stages.config.errors import UserError
from stages.output import MARK
from stages.tracking import start
from stages.training.evaluation import LOSS, Evaluation, HeldOut
from stages.training.loop import Schedule, train
from stages.training.meter import Meter
from stages.workspace import _run, _write_metrics
from tests.algorithms.tiny import examples_of, make, settings_of
from tests.full_disk import file_limit
from tests.models.tiny import tiny_llama

CALLS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


NOTHING = HeldOut(LOSS, Evaluation)


class Killed(BaseException):
    """Stands for the signal."""


class Kill:
    """Ends the stage at its `at`-th call that changes the file system. What handlers try from there on fails, too: a
    dead process does nothing."""

    def __init__(self) -> None:
        self.at = self.calls = 0
        sys.addaudithook(self._hook)  # for good: there is no taking it back

    @contextmanager
    def armed(self, at: int) -> Iterator[None]:
        self.at, self.calls = at, 0
        try:
            yield
        finally:
            self.at = 0

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.at and (event in CALLS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            self.calls += 1
            if self.calls >= self.at:
                raise Killed


@pytest.fixture(scope="module")
def kill() -> Kill:
    return Kill()


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a stage asks of its process is put back."""
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    monkeypatch.setattr(start, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(Meter, "gemm_rate", 1e12)
    monkeypatch.setenv("TREELINE_THREADS", "1")
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.set_num_threads(threads)


def sft(root: Path, dies_at: int | None = None) -> dict[str, bytes]:
    """Five steps with a checkpoint behind each, and the model written; what is in the output then."""
    checkpoints = root / ".checkpoints" / "sft" / "fingerprint"
    config = OmegaConf.create({"tracking": {"enabled": False}})
    with contextmanager(_run)("sft", config, root / "data" / "sft", checkpoints) as run:
        algorithm = make("sft", tiny_llama(num_hidden_layers=1))
        forward, passes = algorithm.forward, []

        def counted(batch):
            passes.append(1)
            if len(passes) == dies_at:
                raise Killed
            return forward(batch)

        algorithm.forward = counted
        schedule = Schedule(3, 1, run.checkpoint_dir, root / ".checkpoints" / "reference")
        settings = settings_of("sft", max_steps=5)
        train(algorithm, examples_of("sft"), settings, schedule, Accelerator(cpu=True), run.tracker, NOTHING)
        (run.output / "model").mkdir()
        save_file(dict(algorithm.state_dict()), run.output / "model" / "model.safetensors")
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in (root / "data").rglob("*")
        if file.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_stage_killed_at_any_call_ends_with_the_same_bits(
    kill: Kill, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From step 3 of 5 on: a step, its checkpoint, for which an older one makes room, a step, the output put in the
    place of an older one, checkpoints removed."""
    whole = sft(tmp_path / "whole")
    assert sorted(whole) == [
        "data/sft/.treeline",
        "data/sft/curves.csv",
        "data/sft/metrics.json",
        "data/sft/model/model.safetensors",
    ]
    begun = tmp_path / "begun"
    (begun / "data" / "sft").mkdir(parents=True)
    for name in (MARK, "old.txt"):
        (begun / "data" / "sft" / name).write_text("of a run before")
    with pytest.raises(Killed):
        sft(begun, dies_at=4)
    checkpoints = begun / ".checkpoints" / "sft" / "fingerprint"
    assert names(checkpoints) == ["step-2", "step-3"]

    caplog.set_level(logging.INFO, "stages")
    at, ended = 0, False
    while not ended:
        at += 1
        root = Path(shutil.copytree(begun, tmp_path / str(at)))
        try:
            with kill.armed(at):
                sft(root)
            ended = True
        except Killed:
            done = (root / "data" / "sft" / "model").exists()
            caplog.clear()
            assert sft(root) == whole, at
            assert done or "going on from step" in caplog.text, at
        assert names(root / "data") == ["sft"], at
        assert names(root / ".checkpoints" / "sft") == [], at
    assert at > 30


def test_a_full_disk_is_told_in_one_line_and_the_next_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint of step 4 is larger than a file may be."""
    whole = sft(tmp_path / "whole")
    with pytest.raises(Killed):
        sft(tmp_path, dies_at=4)
    checkpoints = tmp_path / ".checkpoints" / "sft" / "fingerprint"
    with pytest.raises(UserError) as caught, file_limit(20_000):
        sft(tmp_path)
    assert str(caught.value) == (
        f"{checkpoints}/partial-4: File too large; raise the limit on the size of files (ulimit -f, or the file "
        "system's own), and the next run goes on from the last checkpoint"
    )
    assert not (tmp_path / "data" / "sft").exists()
    assert names(checkpoints) == ["step-3"]
    with caplog.at_level(logging.INFO, "stages"):
        assert sft(tmp_path) == whole
    assert "going on from step 3 of 5" in caplog.text


def test_metrics_are_of_the_step_that_is_handed_on(tmp_path: Path) -> None:
    """What held-out data said of it; other curves are told by where they ended."""
    curves = "step,eval/loss,train/loss\n0,3.0,nan\n10,1.0,2.0\n20,2.0,0.5\n"
    (tmp_path / "curves.csv").write_text(curves)
    _write_metrics(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"eval/loss": 2.0, "train/loss": 0.5}
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "selection.json").write_text('{"kept_step": 10}')
    _write_metrics(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"eval/loss": 1.0, "train/loss": 0.5}
