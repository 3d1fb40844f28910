"""A stage's output folder: what may be replaced by it, and how. Nothing is removed that the project did not make."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig

from stages.config.compose import ROOT
from stages.config.errors import UserError
from stages.disk import remove, removed
from stages.graph import dependencies, graph

# What tells the outputs of the stages that others read apart.
HOLDS = {
    "prepare": ("model.json",),
    "sft": ("model",),
    "reward_model": ("model", "marker.json"),
    "rl": ("model",),
}
MARK = ".treeline"  # in every output folder from its first moment to its last


def check_folder(folder: Path, config: DictConfig) -> None:
    """Raise UserError where `folder`, into which a run by hand or a sweep is to write, belongs to what DVC watches."""
    watched = _watched(config)
    for path in [folder, *folder.parents]:
        if Path(f"{path}.dvc").is_file() or path in watched:
            where = "is" if path == folder else f"is part of {path},"
            raise UserError(
                f"the output folder {folder} {where} what DVC watches: choose another hydra.run.dir or hydra.sweep.dir"
            )


def check_output(final: Path) -> None:
    """Raise UserError where something is in the place of an output that is not one."""
    for folder in (final, partial_of(final)):
        if not is_output(folder):
            raise UserError(
                f"{folder} is not an output of this project, and would be replaced: move it, or choose another folder"
            )


def check_later(stages: Iterable[str]) -> None:
    """Raise UserError where DVC would remove something of the user's: it clears the place of each output."""
    for stage in stages:
        folder = ROOT / "data" / stage
        made = is_output(folder) or all((folder / name).is_file() for name in ("metrics.json", "curves.csv"))
        if not made:
            raise UserError(
                f"{folder} is not what the stage {stage} has made, and DVC would remove it: move it away"
            )


def check_input(folder: Path, stage: str) -> None:
    """Raise UserError where `folder` is not the output of `stage`."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: `dvc repro {stage}` makes it")
    mark = folder / MARK
    if mark.is_file() and (maker := mark.read_text().partition(":")[0]) != stage:
        raise UserError(f"run.inputs.{stage}: {folder} is the output of {maker}, not of {stage}")
    if not any((folder / name).exists() for name in HOLDS[stage]):
        raise UserError(
            f"run.inputs.{stage}: {folder} is no output of {stage}: it has no {' or '.join(HOLDS[stage])}"
        )


def check_no_inputs(config: DictConfig) -> None:
    """Raise UserError where a stage that DVC runs would read what DVC does not watch."""
    if config.run.inputs:
        raise UserError(
            "params.yaml: run.inputs is for stages that are run by hand; under DVC each reads what it depends on: "
            "leave it out"
        )


def is_output(folder: Path) -> bool:
    """Whether it may be removed: it is an output, whole or in part, or it is empty or not there."""
    if folder.is_symlink() or not folder.is_dir():
        return not folder.is_symlink() and not folder.exists()
    return (folder / MARK).is_file() or not any(folder.iterdir())


def begin(final: Path) -> None:
    """An empty folder beside `final`, in the place of what an earlier run has left: an output until it is whole."""
    shutil.rmtree(removed(final), ignore_errors=True)
    partial = partial_of(final)
    discard(partial)
    partial.mkdir(parents=True)
    (partial / MARK).write_text(
        f"{final.name}: an output of Treeline, which the next run that writes here replaces\n"
    )


def put_in_place(final: Path) -> None:
    """Rename a whole output. What was there is renamed first and removed last: a kill leaves one or the other whole."""
    partial = partial_of(final)
    if not is_output(final):
        raise UserError(f"{final} has become something else while the stage ran; its output is in {partial}")
    replaced = removed(final)
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove an output. What is none is left as it is."""
    if is_output(folder):
        remove(folder)


def partial_of(final: Path) -> Path:
    """Where an output is written until it is whole."""
    return final.with_name(f".{final.name}.partial")


def _watched(config: DictConfig) -> set[Path]:
    """What dvc.yaml names: each stage's output, and the files and folders that it depends on."""
    outs = [out for entry in graph().values() for out in entry["outs"]]
    deps = [path for stage in graph() for path in dependencies(stage, config).paths]
    return {(ROOT / path).resolve() for path in [*outs, *deps]}
