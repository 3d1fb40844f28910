"""Where a stage reads, writes, and goes on from; one stage at a time, and whole outputs or none."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_method
from omegaconf import DictConfig

from stages.config.compose import ROOT
from stages.config.errors import UserError
from stages.config.space import check_space, room
from stages.config.validate import validate
from stages.data.examples import Example, iter_examples
from stages.data.sealed import check_sealed
from stages.disk import remove, removed, sweep, write_out, writing
from stages.graph import dependencies, downstream, fingerprint
from stages.guard import lock
from stages.machine import use_all_cores
from stages.output import (
    begin,
    check_folder,
    check_input,
    check_later,
    check_no_inputs,
    check_output,
    discard,
    partial_of,
    put_in_place,
)
from stages.tracking.curves import read_curves
from stages.tracking.start import CURVES, start_tracker
from stages.tracking.tracker import Tracker

CHECKPOINTS = ROOT / ".checkpoints"
REFERENCES = CHECKPOINTS / "reference"  # what references gave, for every run that asks for the same
EVALUATIONS = "eval/"  # metrics of held-out data
CHECKPOINT = "step-"  # and how many steps it has seen
METRICS = "metrics.json"
SELECTION = "selection.json"  # of a trained stage: which step it hands on, and why


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
        return input_folder(self.config, name)


@contextmanager
def open_stage(name: str, config: DictConfig) -> Iterator[Stage]:
    """Check the configuration, take the stage's lock, start its tracking, and put its output in place at the end.

    A UserError is printed as one line and ends the process with code 2; whatever goes wrong, nothing is written.
    """
    try:
        validate(config)
        inputs = {needed: input_folder(config, needed) for needed in dependencies(name, config).inputs}
        if "prepare" in inputs:
            _check_rewards(config, inputs["prepare"])
        final = _output(name, config)
        checkpoints = CHECKPOINTS / name / fingerprint(name, config, inputs)
        check_space(
            name, config, final, [checkpoints, removed(checkpoints), partial_of(final), removed(final)]
        )
        held = CHECKPOINTS / f"{name}.lock" if _by_dvc() else final.with_name(f".{final.name}.lock")
        with (
            writing(final, room([name], config), lambda: continuation(checkpoints)),
            lock(held, name),
            lock(checkpoints.with_suffix(".lock"), name),
        ):
            yield from _run(name, config, final, checkpoints)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _check_rewards(config: DictConfig, prepared: Path) -> None:
    """The columns that rewards need are there: sft need not be trained to find that out. By name and not by import, for
    what is only checked here is no part of what a stage computes."""

    def rows(role: str) -> Iterator[Example]:
        path = prepared / f"{role}.jsonl"
        check_sealed(path)
        return iter_examples(path)

    get_method("stages.rewards.check.check_data")(config, rows)


def _run(name: str, config: DictConfig, final: Path, checkpoints: Path) -> Iterator[Stage]:
    use_all_cores()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main = _is_main()
    partial = partial_of(final)
    if main:
        sweep(checkpoints.parent)
        begin(final)
    tracker = start_tracker(name, config, partial)
    try:
        yield Stage(name, config, partial, checkpoints, tracker, main)
    except BaseException as error:
        with suppress(OSError):  # the disk may be what has failed
            tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        if main:
            discard(partial)
        raise
    tracker.finish()
    if main:
        _write_metrics(partial)
        write_out(*partial.rglob("*"), partial)
        put_in_place(final)
        write_out(final.parent)
        remove(checkpoints)


def continuation(checkpoints: Path) -> str:
    """What a user may expect after a failure."""
    found = any(checkpoints.glob(f"{CHECKPOINT}*"))
    return f"the next run {'goes on from the last checkpoint' if found else 'begins this stage again'}"


def _write_metrics(output: Path) -> None:
    """metrics.json, for `dvc metrics`: where each curve ended, and what held-out data said of the step that is handed
    on, where it is another one. A stage that measures more has written its own."""
    if (output / METRICS).exists():
        return
    selection = output / SELECTION
    kept = json.loads(selection.read_text())["kept_step"] if selection.exists() else None
    values = {}
    for name, points in sorted(read_curves(output / CURVES).items()):
        of_kept = [value for step, value in points if step == kept and name.startswith(EVALUATIONS)]
        values[name] = of_kept[0] if of_kept else points[-1][1]
    (output / METRICS).write_text(json.dumps(values, indent=2) + "\n")


def _by_dvc() -> bool:
    return "DVC_STAGE" in os.environ


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _output(name: str, config: DictConfig) -> Path:
    """data/<stage> where DVC runs the stage; else Hydra's output folder, so that what DVC tracks stays as it is.

    Raises UserError where that holds something of the user's.
    """
    if _by_dvc():
        final = ROOT / "data" / name
        check_later(downstream(name))
    else:
        final = Path(HydraConfig.get().runtime.output_dir).resolve() / name
        check_folder(final, config)
    if _is_main():
        check_output(final)
    return final


def input_folder(config: DictConfig, name: str) -> Path:
    """The output of an earlier stage. Raises UserError where it is not there."""
    if _by_dvc():
        check_no_inputs(config)
    folder = ROOT / config.run.inputs.get(name, f"data/{name}")
    check_input(folder, name)
    return folder
