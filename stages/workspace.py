"""Where a stage reads, writes, and goes on from; one stage at a time, and whole outputs or none."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from stages.config.compose import ROOT
from stages.config.errors import UserError
from stages.config.validate import validate
from stages.guard import lock, stop_with_dvc
from stages.tracking.start import start_tracker
from stages.tracking.tracker import Tracker

CHECKPOINTS = ROOT / ".checkpoints"
# What each stage's checkpoint depends on, as dvc.yaml's params say for its output.
SECTIONS = {
    "prepare": ("seed", "model", "data"),
    "sft": ("seed", "model", "data", "sft"),
    "reward_model": ("seed", "model", "data", "reward_model"),
    "rl": ("seed", "model", "data", "rl"),
    "evaluate": ("seed", "model", "data", "rl", "evaluate"),
}
INPUTS = {
    "prepare": (),
    "sft": ("prepare",),
    "reward_model": ("prepare", "sft"),
    "rl": ("prepare", "sft", "reward_model"),
    "evaluate": ("prepare", "sft", "reward_model", "rl"),
}


@dataclass(frozen=True)
class Stage:
    """A stage in progress. `output` is renamed into its place when the stage has ended well."""

    name: str
    config: DictConfig
    output: Path
    checkpoint_dir: Path
    tracker: Tracker
    is_main: bool

    def input(self, name: str) -> Path:
        """The folder that an earlier stage wrote."""
        return _input(self.config, name)


@contextmanager
def open_stage(name: str, config: DictConfig) -> Iterator[Stage]:
    """Check the configuration, take the stage's lock, start its tracking, and put its output in place at the end.

    A UserError is printed as one line and ends the process with code 2; whatever goes wrong, nothing is written.
    """
    try:
        validate(config)
        for needed in INPUTS[name]:
            _input(config, needed)
        final = _output(name)
        with lock(CHECKPOINTS / f"{name}.lock" if _by_dvc() else final.with_name(f"{final.name}.lock"), name):
            yield from _run(name, config, final)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _run(name: str, config: DictConfig, final: Path) -> Iterator[Stage]:
    stop_with_dvc()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main = int(os.environ.get("RANK", "0")) == 0
    partial = final.with_name(f".{final.name}.partial")
    if main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    checkpoints = CHECKPOINTS / name / fingerprint(name, config)
    tracker = start_tracker(name, config, partial)
    try:
        yield Stage(name, config, partial, checkpoints, tracker, main)
    except BaseException as error:
        tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    tracker.finish()
    if main:
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        shutil.rmtree(CHECKPOINTS / name, ignore_errors=True)


def _by_dvc() -> bool:
    return "DVC_STAGE" in os.environ


def _output(name: str) -> Path:
    """data/<stage> where DVC runs the stage; else Hydra's output folder, so that what DVC tracks stays as it is."""
    if _by_dvc():
        return ROOT / "data" / name
    return Path(HydraConfig.get().runtime.output_dir).resolve() / name


def _input(config: DictConfig, name: str) -> Path:
    folder = ROOT / config.run.inputs.get(name, f"data/{name}")
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: `dvc repro {name}` makes it")
    return folder


def fingerprint(name: str, config: DictConfig) -> str:
    """What a checkpoint stands for: the stage's values, its inputs' content and the code."""
    sections = {section: config[section] for section in SECTIONS[name]}
    if "rl" in sections:
        sections["rl"] = {"algo": config.rl.algo, "settings": config.rl[config.rl.algo]}
    digest = hashlib.sha256(OmegaConf.to_yaml(OmegaConf.create(sections), resolve=True, sort_keys=True).encode())
    folders = [_input(config, needed) for needed in INPUTS[name]]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in [*files, *sorted((ROOT / "stages").rglob("*.py"))]:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
