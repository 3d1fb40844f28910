"""The door, before `dvc repro`: everything that can be known to be wrong without loading a model, or reading data (but
for the columns that rewards need).

`python -m stages.check [key=value ...]` exits with 2 and one line where something is wrong. prepare, the first stage,
checks the data in the same way before it writes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stages.config.compose import ROOT, compose_config
from stages.config.errors import UserError
from stages.config.space import check_room
from stages.config.validate import needs_reward_model, validate
from stages.data.base_model import check_location, read_base_model
from stages.data.dataset import known_records
from stages.data.model_files import check_files as check_model_files
from stages.data.nearest import nearest
from stages.data.positions import check_length, max_positions
from stages.data.roles import ROLES
from stages.data.settings import DataSettings
from stages.dispatch import reported
from stages.dvc_files import check_dvc_files
from stages.graph import dependencies, graph
from stages.launch import check_device, check_environment, launch_name, read_launch
from stages.models.door import check_model as check_weights
from stages.output import check_later, check_no_inputs
from stages.progress import quiet_libraries
from stages.rewards.check import check_data
from stages.seal import SEAL, first_damaged
from stages.workspace import CHECKPOINTS


def check(overrides: list[str]) -> None:
    """Raise UserError for the first thing that is wrong."""
    config = compose_config(overrides)
    validate(config)
    check_launch(config)
    check_params(config)
    check_dvc_files(ROOT)
    check_later(graph())
    check_files(config)
    check_model(config)
    check_lengths(config)
    check_reward_columns(config)
    check_no_inputs(config)
    check_room(list(graph()), config, ROOT / "data", [CHECKPOINTS / stage for stage in graph()])


def check_launch(config: DictConfig) -> None:
    """The launch can be started, its device is there, and its processes can share out every batch evenly."""
    check_environment()
    launch, name = read_launch(), f"conf/launch/{launch_name()}.yaml"
    check_device(launch)
    processes = launch.num_processes
    trained = ["sft", *(["reward_model"] if needs_reward_model(config) else []), f"rl.{config.rl.algo}"]
    for section in trained:
        size = OmegaConf.select(config, section).batch_size
        if size % processes:
            raise UserError(
                f"params.yaml: {section}.batch_size {size} cannot be shared out over the {processes} processes of "
                f"{name}; it must be a multiple of {processes}"
            )


def check_params(config: DictConfig) -> None:
    """What DVC tracks must be written out in params.yaml: DVC reads that file alone, and knows no default."""
    written = OmegaConf.to_container(OmegaConf.load(ROOT / "params.yaml"))
    for key in _named_by_dvc():
        if not _is_written(key, written):
            anyway = ", even where source is not files" if key.endswith(".path") else ""
            line = f"{key.split('.')[-1]}: {OmegaConf.select(config, key)}"
            raise UserError(f"params.yaml: {key} is missing: dvc.yaml names it{anyway}; write {line}")
    for key in sorted({key for stage in graph() for key in dependencies(stage, config).params}):
        if not _is_written(key, written):
            raise UserError(f"params.yaml: '{key}' is missing and DVC watches it: write it, if only as {{}}")


def _named_by_dvc() -> list[str]:
    """The keys whose values dvc.yaml takes into what a stage depends on: `${rl.algo}` and the like."""
    text = str([[stage["deps"], stage["params"]] for stage in graph().values()])
    return sorted(set(re.findall(r"\$\{([\w.]+)\}", text)))


def _is_written(key: str, node: Any) -> bool:
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def check_files(config: DictConfig) -> None:
    """Paths that DVC watches exist, whether or not a role reads them, and no stage writes into them."""
    for role in ROLES:
        path = config.data[role].path
        if not (ROOT / path).exists():
            beside = (each.name for each in (ROOT / path).parent.glob("*"))
            near = nearest(Path(path).name, beside)
            raise UserError(f"data.{role}.path: there is no file or folder {path}{near}")
        whole = (ROOT / path).resolve()
        for stage in graph():
            output = (ROOT / "data" / stage).resolve()
            if output in (whole, *whole.parents) or whole in output.parents:
                raise UserError(
                    f"data.{role}.path: {path} holds the output of {stage}, data/{stage}: move your data"
                )


def check_model(config: DictConfig) -> None:
    """The model is there and whole, as far as its headers say, and it is what prepare saw: DVC does not watch a folder
    outside the project. One on the hub is looked at by prepare, which fetches it."""
    prepared = ROOT / "data" / "prepare"
    if config.model.path is None:
        # Where something of it is gone or damaged, DVC or prepare makes it again.
        folder = prepared / "model"
        if first_damaged(folder):
            return
    else:
        folder = Path(check_location(config.model.path))
        # Of another model prepare makes its own check: it runs again.
        if _recorded_path(prepared / "model.json") == config.model.path:
            read_base_model(prepared)
    if folder.is_dir():
        check_model_files(folder)
        check_weights(config.model, folder)


def _recorded_path(file: Path) -> str | None:
    """None where the file is not there, or not whole: DVC or prepare makes it again."""
    if file.with_name(SEAL).is_file() and first_damaged(file):
        return None
    try:
        return json.loads(file.read_text())["path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_lengths(config: DictConfig) -> None:
    """What is trained on, and what is sampled, fits the model's positions, as far as they are known here."""
    limit = max_positions(config.model)
    check_length({"data.max_length": config.data.max_length}, limit)
    for key in (f"rl.{config.rl.algo}.max_new_tokens", "evaluate.max_new_tokens"):
        max_new_tokens = OmegaConf.select(config, key)
        if max_new_tokens is not None:  # not every algorithm samples
            check_length(
                {"data.max_prompt_length": config.data.max_prompt_length, key: max_new_tokens}, limit
            )


def check_reward_columns(config: DictConfig) -> None:
    """The columns that rewards need, as far as rows can be had at once; prepare looks again at those of the hub."""
    settings = DataSettings.model_validate(OmegaConf.to_container(config.data, resolve=True))
    check_data(config, lambda role: known_records(role, settings, config.seed))


def main() -> None:
    """Exit code 0, or 2 with the reason."""
    quiet_libraries()
    with reported():
        check(sys.argv[1:])


if __name__ == "__main__":
    main()
