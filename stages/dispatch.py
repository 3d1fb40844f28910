"""How a stage is entered: by DVC, by hand, or as the jobs of a sweep."""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import NamedTuple
from uuid import uuid4

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from stages.config.compose import CONF, ROOT, check_overrides, compose_config, hydra_folder, one_line
from stages.config.errors import UserError
from stages.config.validate import validate
from stages.disk import writing
from stages.graph import downstream
from stages.guard import DISPATCHER, dispatcher
from stages.launch import check_device, check_environment, launch_name, read_launch
from stages.output import check_folder, check_output
from stages.progress import quiet_libraries
from stages.tracking.provenance import PARENT
from stages.tracking.redact import redact_override
from stages.workspace import Stage, open_stage

JOB = ".treeline-job.json"


def entry(stage: str) -> Callable[[Callable[[Stage], None]], Callable[[], None]]:
    """Make a stage's body its module's `main`: `python -m stages.<stage> [key=value ...] [-m key=a,b]`.

    Exit codes: 0 done, 2 bad input (one line says what), 1 anything else.
    """

    def decorate(body: Callable[[Stage], None]) -> Callable[[], None]:
        @functools.wraps(body)
        def task(config: DictConfig) -> None:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                _run_job(stage, config)
                return
            with open_stage(stage, config) as run:
                body(run)

        del task.__wrapped__  # Hydra would look through it, and find a function that takes no config
        enter = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)

        @functools.wraps(body)
        def main() -> None:
            with reported():
                _prepare_process(stage)
                with _told_by_hydra(task):
                    enter()

        return main

    return decorate


def _prepare_process(stage: str) -> None:
    os.environ["PROJECT_ROOT"] = str(ROOT)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug is worth its whole traceback
    flags = {argument for argument in sys.argv[1:] if argument.startswith("-")}
    if "DVC_STAGE" in os.environ:  # the output is data/<stage>; Hydra's own folder is of no use
        os.environ["TREELINE_OUTPUT"] = str(ROOT / ".checkpoints" / "hydra")
    elif flags & {"-m", "--multirun"}:
        os.environ.setdefault(PARENT, f"sweep-{uuid4().hex}")
        os.environ[DISPATCHER] = str(os.getpid())
    logging.getLogger("stages").setLevel(logging.INFO)
    quiet_libraries()
    with reported():
        check_environment()
        check_device(read_launch())
        overrides = [
            argument for argument in sys.argv[1:] if argument not in flags and set(argument) & set("=~")
        ]
        # before Hydra makes a folder for a run that cannot be
        if flags:  # of a sweep's `key=a,b` only the key is looked at; each of its jobs is checked by itself
            config = compose_config()
            check_overrides(overrides)
        else:
            config = compose_config(overrides)
            validate(config)
        if folder := hydra_folder(overrides, "hydra.sweep" if flags else "hydra.run"):
            check_folder(folder if flags else folder / stage, config)


@contextmanager
def reported() -> Iterator[None]:
    """What a user can mend is told in one line, with exit code 2."""
    try:
        with writing(ROOT, 0, lambda: "start it again"):
            yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


@contextmanager
def _told_by_hydra(task: Callable[[DictConfig], None]) -> Iterator[None]:
    """What Hydra cannot compose is the user's to mend; what comes out of a task keeps its traceback."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        if any(frame.f_code is task.__code__ for frame, _ in walk_tb(error.__traceback__)):
            raise
        raise UserError(f"command line: {one_line(error)}") from error


def _run_job(stage: str, config: DictConfig) -> None:
    """One job of a sweep: the stage and what follows it, each its own launch, all into the job's own folder.

    A job that fails leaves word of it for the end of the sweep (stages/sweep.py): the others run all the same.
    """
    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    with reported():
        for name in downstream(stage):
            check_folder(folder / name, config)
    folder.mkdir(parents=True, exist_ok=True)
    overrides = list(HydraConfig.get().overrides.task)
    job = Job(folder, overrides)
    job.save()
    try:
        validate(config)
        for name in downstream(stage):
            check_output(folder / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        job.save(failed=stage)
        return
    overrides = [*overrides, f"hydra.run.dir='{folder}'"]
    for name in downstream(stage):
        if launch(name, overrides):
            job.save(failed=name)
            return
        overrides.append(f"+run.inputs.{name}='{folder / name}'")


class Job(NamedTuple):
    """A job's folder, and the values that tell it from the others of its sweep."""

    folder: Path
    overrides: list[str]

    def save(self, failed: str | None = None) -> None:
        """Write both, and the stage that failed, to where the end of the sweep looks for them."""
        shown = [redact_override(override) for override in self.overrides]
        told = {"sweep": os.environ.get(PARENT), "overrides": shown, "failed": failed}
        (self.folder / JOB).write_text(json.dumps(told) + "\n")


def launch(stage: str, overrides: list[str]) -> int:
    """Run a stage in processes of its own, as dvc.yaml does; returns its exit code."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    command += ["--num_cpu_threads_per_process", os.environ.get("OMP_NUM_THREADS") or "1"]
    command += [
        "--config_file",
        str(CONF / "launch" / f"{launch_name()}.yaml"),
        "-m",
        f"stages.{stage}",
        *overrides,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment[DISPATCHER] = str(dispatcher())
    return subprocess.run(command, env=environment, cwd=ROOT).returncode
