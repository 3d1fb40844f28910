"""How a stage's processes are started: Accelerate's file of conf/launch, and what it says in the environment."""

from __future__ import annotations

import os

import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.utils import parse_flag_from_env

from stages.config.compose import CONF
from stages.config.errors import UserError
from stages.config.yaml_text import check_yaml
from stages.data.nearest import nearest
from stages.machine import check_threads

SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP")  # Accelerate's names
WHOLE = "and they are needed whole: use MULTI_GPU, and model.lora: true where memory is short"


def check_environment() -> None:
    """Raise UserError for a variable that cannot be read, and where a launch of the user's own shards weights."""
    check_threads()
    for name in ("CPU", "FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        variable = f"ACCELERATE_USE_{name}"
        try:
            chosen = parse_flag_from_env(variable)
        except ValueError as error:
            raise UserError(f"{variable}: '{os.environ[variable]}' is neither true nor false") from error
        if chosen and name != "CPU":
            raise UserError(f"{variable} is set: this launch shards weights, {WHOLE}")


def launch_name() -> str:
    """The file of conf/launch that the environment variable TREELINE_LAUNCH chooses."""
    return os.environ.get("TREELINE_LAUNCH") or "cpu"


def read_launch() -> ClusterConfig:
    """Raises UserError where there is no such file, where Accelerate cannot start by it, or where it shards weights."""
    kind = launch_name()
    path, name = CONF / "launch" / f"{kind}.yaml", f"conf/launch/{kind}.yaml"
    known = [file.stem for file in path.parent.glob("*.yaml")]
    if kind not in known:
        raise UserError(f"TREELINE_LAUNCH: there is no {name}{nearest(kind, known)}")
    check_yaml(path, name)
    for key in yaml.safe_load(path.read_text()) or {}:
        if key not in ClusterConfig.__dataclass_fields__:
            raise UserError(
                f"{name}: unknown key '{key}'{nearest(str(key), ClusterConfig.__dataclass_fields__)}"
            )
    try:
        launch = ClusterConfig.from_yaml_file(str(path))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from error
    if type(launch.num_processes) is not int or launch.num_processes < 1:
        raise UserError(
            f"{name}: num_processes is {launch.num_processes!r}; it must be a whole number from 1 on"
        )
    if (
        shards := str(getattr(launch.distributed_type, "value", ""))
    ) in SHARDING or launch.parallelism_config:
        raise UserError(f"TREELINE_LAUNCH: {name} shards weights ({shards}), {WHOLE}")
    return launch


def check_device(launch: ClusterConfig) -> None:
    """Raise UserError where the launch is for a GPU and there is none: its processes would each train alone."""
    if not launch.use_cpu and not torch.accelerator.is_available():
        raise UserError(
            f"TREELINE_LAUNCH: conf/launch/{launch_name()}.yaml is for a GPU, and torch {torch.__version__} finds "
            "none: install its build for yours, or leave the variable out"
        )
