"""Start the tracking of one stage: gather what it is, open its spool, start its sender."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stages.tracking import provenance
from stages.tracking.curves import Curves, Timings
from stages.tracking.redact import without_secrets
from stages.tracking.spool import Spool
from stages.tracking.tracker import Tracker

CURVES = "curves.csv"
TIMINGS = ".checkpoints/{stage}.timings.csv"  # of the last run
PROJECT_ROOT = Path(__file__).resolve().parents[2]


def tracking_root() -> Path:
    """The project that the runs are recorded in. DVC_ROOT names the parent project inside a queued
    experiment, whose own folder is deleted when it ends; nothing but tracking may look there."""
    return Path(os.environ.get("DVC_ROOT") or PROJECT_ROOT).resolve()


def start_tracker(stage: str, config: DictConfig, output_dir: Path) -> Tracker:
    """The tracker of this process: on the main rank it writes `output_dir/curves.csv` and, unless
    `tracking.enabled` is false, delivers to MLflow; on every other rank it keeps nothing."""
    if int(os.environ.get("RANK", "0")) != 0:
        return Tracker()
    files = [Curves(Path(output_dir) / CURVES), Timings(PROJECT_ROOT / TIMINGS.format(stage=stage))]
    if not config.tracking.enabled:
        return Tracker(files)
    root = tracking_root()
    try:
        start = start_event(stage, config)
        spool = Spool(root / ".spool", start, float(config.tracking.finish_timeout))
    except (
        Exception
    ) as error:  # a read-only folder, a full disk, whatever it is: tracking never stops a stage
        print(f"warning: this run is not tracked: {type(error).__name__}: {error}", file=sys.stderr)
        return Tracker(files)
    try:
        spool.sender = start_sender(spool.folder, config, root)
    except OSError as error:
        print(f"warning: MLflow gets this run when the next one starts: {error}", file=sys.stderr)
    return Tracker([*files, spool])


def start_event(stage: str, config: DictConfig) -> dict[str, Any]:
    """What a run is, without secrets."""
    shown = without_secrets(config)
    return {
        "event": "start",
        "time": int(time.time() * 1000),
        "stage": stage,
        "name": provenance.run_name(stage),
        "parent": provenance.parent(),
        "params": provenance.params(shown),
        "tags": provenance.tags(stage, config, PROJECT_ROOT),
        "config": OmegaConf.to_yaml(shown, resolve=True),
    }


def start_sender(folder: Path, config: DictConfig, root: Path) -> subprocess.Popen[Any]:
    """Start the process that delivers this run. It outlives the stage, and a Ctrl-C on it."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    # Two cores at most of a small machine, and both are the stage's.
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    # Not an argument, which everybody on the machine can read: it may hold a password.
    environment["MLFLOW_TRACKING_URI"] = config.tracking.uri or f"sqlite:///{root / 'mlflow.db'}"
    command = [sys.executable, "-m", "stages.tracking.sender", str(folder)]
    command += ["--experiment", config.tracking.experiment]
    command += ["--drain-timeout", str(config.tracking.drain_timeout)]
    with (folder / "sender.log").open("w") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        return subprocess.Popen(command, env=environment, cwd=root, start_new_session=True, **streams)
