"""Whatever happened to a checkpoint, a run goes on from one that is whole, or from the start, to the same bits."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from stages.config.compose import ROOT
from stages.seal import seal
from stages.training.best import BestWeights
from stages.training.checkpoints import Checkpoints, Story
from tests.algorithms.tiny import examples_of, make, settings_of
from tests.models.tiny import tiny_llama
from tests.training.tiny import run

STEPS = 5
NO_BEST = {"best_step": None}
SETTINGS = settings_of("sft", max_steps=STEPS, warmup_ratio=0.5)


class Killed(BaseException):
    """Stands for the signal."""


def train(folder: Path, dies_at: int | None = None) -> dict[str, torch.Tensor]:
    """Five steps with a checkpoint behind each; the weights at the end, or at the kill in step `dies_at`."""
    algorithm, calls = make("sft", tiny_llama(num_hidden_layers=1)), []
    forward = algorithm.forward

    def counted(batch):
        calls.append(1)
        if len(calls) == dies_at:
            raise Killed
        return forward(batch)

    algorithm.forward = counted
    try:
        run(algorithm, examples_of("sft"), SETTINGS, folder, save_steps=1)
    except Killed:
        assert dies_at
    return algorithm.state_dict()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[key], right[key]) for key in left.keys() | right.keys())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed in the fourth step: checkpoints of steps 2 and 3."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    train(folder, dies_at=4)
    assert names(folder) == ["step-2", "step-3"]
    return folder


@pytest.fixture
def folder(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    """Whole files, of another model."""
    weights = load_file(path / "weights.safetensors")
    save_file({f"other.{key}": value for key, value in weights.items()}, path / "weights.safetensors")
    (path / "digests.json").unlink()
    seal(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no weights": lambda path: (path / "weights.safetensors").unlink(),
    "no story": lambda path: (path / "story.json").unlink(),
    "no digests": lambda path: (path / "digests.json").unlink(),
    "a moment is empty": lambda path: truncate(path / "exp_avg.safetensors", 0),
    "a moment is cut": lambda path: truncate(path / "exp_avg_sq.safetensors", -1),
    "a bit of a weight": lambda path: flip(path / "weights.safetensors", -40),
    "a bit of a header": lambda path: flip(path / "weights.safetensors", 20),
    "a bit of a step": lambda path: flip(path / "step.safetensors", -1),
    "a bit of the story": lambda path: flip(path / "story.json", -30),
    "a bit of a digest": lambda path: flip(path / "digests.json", 30),
    "digests are no JSON": lambda path: truncate(path / "digests.json", 20),
    "digests are a list": lambda path: (path / "digests.json").write_text('["weights.safetensors"]'),
    "an empty folder": lambda path: (shutil.rmtree(path), path.mkdir()),
    "a file": lambda path: (shutil.rmtree(path), path.write_text("")),
    "another model's": swap,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    damage: str, folder: Path, whole: dict, caplog: pytest.LogCaptureFixture
):
    DAMAGE[damage](folder / "step-3")
    with caplog.at_level(logging.INFO, "stages"):
        assert same(train(folder), whole)
    assert f"the checkpoint {folder / 'step-3'} cannot be used (" in caplog.text
    assert "it is now damaged-step-3" in caplog.text
    assert f"going on from step 2 of {STEPS}" in caplog.text
    assert names(folder) == ["damaged-step-3", "step-3", "step-4"]


def test_where_none_is_whole_the_start_is(folder: Path, whole: dict, caplog: pytest.LogCaptureFixture):
    for path in folder.iterdir():
        flip(path / "exp_avg.safetensors", -1)
    with caplog.at_level(logging.INFO, "stages"):
        assert same(train(folder), whole)
    assert "going on" not in caplog.text
    assert names(folder) == ["damaged-step-2", "damaged-step-3", "step-3", "step-4"]


@pytest.mark.parametrize("name", ["step-x", "step-", "step-0", "step-03", "step-9"])
def test_a_name_that_no_run_has_given(name: str, folder: Path, whole: dict, caplog: pytest.LogCaptureFixture):
    """step-9 is that of step 3 under another number: the story knows."""
    (folder / "step-3").rename(folder / name)
    with caplog.at_level(logging.INFO, "stages"):
        assert same(train(folder), whole)
    assert f"it is now damaged-{name}" in caplog.text
    assert "going on from step 2" in caplog.text


def test_a_second_damage_to_the_same_step_takes_the_place_of_the_first(folder: Path, whole: dict):
    for _ in range(2):
        flip(folder / "step-3" / "weights.safetensors", -1)
        train(folder, dies_at=2)  # step 3 is done again
    assert names(folder) == ["damaged-step-3", "step-2", "step-3"]
    assert same(train(folder), whole)


def test_half_written_and_half_removed_ones_are_swept_away(folder: Path, whole: dict):
    shutil.copytree(folder / "step-3", folder / "partial-4")
    shutil.copytree(folder / "step-2", folder / ".step-1.removed-by-treeline")
    truncate(folder / "partial-4" / "weights.safetensors", 100)
    train(folder, dies_at=1)
    assert names(folder) == ["step-2", "step-3"]
    assert same(train(folder), whole)


def test_no_pickle_is_read(folder: Path, whole: dict, tmp_path: Path):
    """Accelerate's names, in a checkpoint and beside it."""

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    pickles = "custom_checkpoint_0.pkl optimizer.bin scheduler.bin random_states_0.pkl pytorch_model.bin"
    for name in pickles.split():
        for place in (folder, folder / "step-3"):
            (place / name).write_bytes(pickle.dumps(Trap()))
    assert same(train(folder), whole)
    assert not (tmp_path / "executed").exists()
    assert not list((folder / "step-4").glob("*.pkl"))
    written = {path.name for path in (folder / "step-4").iterdir()}
    assert written == {
        "weights.safetensors", "step.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "story.json",
        "digests.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "before", "words"),
    [
        ("threads", "64", "threads 64 -> "),
        ("torch", "1.0", "torch 1.0 -> "),
        ("device", "another one", "device another one -> "),
        ("precision", "bf16", "precision bf16 -> no"),
        ("processes", "8", "processes 8 -> 1"),
    ],
)
def test_what_is_computed_in_another_way_is_said_in_one_line(
    key: str, before: str, words: str, folder: Path, caplog: pytest.LogCaptureFixture
):
    path = folder / "step-3"
    story = json.loads((path / "story.json").read_text())
    story["computing"][key] = before
    (path / "story.json").write_text(json.dumps(story))
    (path / "digests.json").unlink()
    seal(path)
    with caplog.at_level(logging.WARNING, "stages"):
        train(folder, dies_at=1)
    assert len(caplog.records) == 1
    assert words in caplog.text


def test_nothing_is_said_where_all_is_as_it_was(folder: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "stages"):
        train(folder, dies_at=1)
    assert not caplog.records


def test_the_optimizer_s_state_and_tied_weights_come_back_to_the_last_bit(tmp_path: Path):
    """One parameter is tied, one is frozen, one has had no gradient, one is laid out in another order."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(3, 3)
            self.tied = nn.Linear(3, 3, bias=False)
            self.tied.weight = self.first.weight
            self.unused = nn.Linear(2, 2)
            self.frozen = nn.Linear(3, 3).requires_grad_(False)
            self.turned = nn.Parameter(torch.randn(4, 3).t())
            self.seen: torch.Tensor
            self.register_buffer("seen", torch.zeros(1))

    def step(module: Module, optimizer: torch.optim.Optimizer) -> None:
        (module.tied(module.first(torch.ones(2, 3))).square().sum() + module.turned.sin().sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        module.seen += 1

    def fresh(rate: float) -> tuple[Module, torch.optim.Optimizer, Checkpoints]:
        accelerator = Accelerator(cpu=True)
        module = Module()
        vectors = [p for p in module.parameters() if p.requires_grad and p.dim() < 2]
        matrices = [p for p in module.parameters() if p.requires_grad and p.dim() == 2]
        groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.1}]
        module, optimizer = accelerator.prepare(module, torch.optim.AdamW(groups, lr=rate, fused=True))
        best = BestWeights(tmp_path, module, accelerator)
        return module, optimizer, Checkpoints(tmp_path, module, optimizer, best, accelerator)

    module, optimizer, checkpoints = fresh(0.1)
    for _ in range(3):
        step(module, optimizer)
    checkpoints.save(Story(3, {"metrics": [1]}, NO_BEST))
    assert "frozen.weight" not in load_file(tmp_path / "step-3" / "weights.safetensors")
    step(module, optimizer)

    other, resumed, checkpoints = fresh(0.1)
    assert checkpoints.restore() == Story(3, {"metrics": [1]}, NO_BEST)
    assert other.tied.weight is other.first.weight
    step(other, resumed)
    assert same(other.state_dict(), module.state_dict())
    assert other.seen == 4
    states = [[dict(state) for state in one.state_dict()["state"].values()] for one in (optimizer, resumed)]
    assert len(states[0]) == 3  # a matrix, its bias, and the turned one
    for left, right in zip(*states, strict=True):
        assert same(left, right)


def test_two_are_kept_and_the_newest_is_taken_by_number(tmp_path: Path):
    accelerator = Accelerator(cpu=True)
    module = nn.Linear(2, 2)
    module, optimizer = accelerator.prepare(module, torch.optim.AdamW(module.parameters()))
    best = BestWeights(tmp_path, module, accelerator)
    checkpoints = Checkpoints(tmp_path, module, optimizer, best, accelerator)
    assert checkpoints.restore() is None
    for step in (8, 9, 10):
        checkpoints.save(Story(step, {"metrics": [step]}, NO_BEST))
    assert names(tmp_path) == ["step-10", "step-9"]
    assert checkpoints.restore() == Story(10, {"metrics": [10]}, NO_BEST)


def test_two_processes_take_the_same_checkpoint(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "tests.training.two_processes", str(tmp_path)]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    outputs = [process.communicate()[0] for process in processes]
    assert (tmp_path / "fine-0").exists() and (tmp_path / "fine-1").exists(), "\n".join(outputs)
    assert "step-3 cannot be used (weights.safetensors is missing or damaged)" in outputs[0]
    assert "step-3 cannot be used (another process cannot read it)" in outputs[0]
    assert "cannot be used" not in outputs[1]  # one of them says it
