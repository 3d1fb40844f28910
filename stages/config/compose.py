"""The configuration, composed by Hydra from conf/, params.yaml and the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stages.config.errors import UserError
from stages.data.nearest import nearest

# Never DVC_ROOT: inside a queued experiment it names the parent project, and the parent's values would be read.
ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PARAMS = "params.yaml"
# Sections whose keys are the user's own. Hydra takes a new one with a + only.
OPEN = ("run.inputs", "*.rewards", "*.task", "*.columns", "*.loss")


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """What a stage sees. Raises UserError where params.yaml or an override cannot be read."""
    os.environ["PROJECT_ROOT"] = str(ROOT)
    _check_params(ROOT / PARAMS)
    check_overrides(overrides)
    return _compose(overrides)


def _check_params(path: Path) -> None:
    """DVC reads params.yaml as plain YAML. What Hydra alone would understand in it, DVC would take for a constant."""
    try:
        params = OmegaConf.load(path)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path.name} cannot be read: {_one_line(error)}") from error
    if not OmegaConf.is_dict(params):
        raise UserError(f"{path.name} must hold sections of keys and values")
    for key in ("defaults", "hydra"):
        if key in params:
            raise UserError(f"{path.name}: '{key}' does not belong here but into conf/config.yaml")
    for line in OmegaConf.to_yaml(params).splitlines():
        if "${" in line:
            raise UserError(
                f"{path.name}: '{line.strip()}': write the value itself, for DVC does not resolve ${{...}}"
            )


def _compose(overrides: Sequence[str] = (), name: str = "config") -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"the configuration cannot be composed: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    """Without where Hydra looked, which is internal and long."""
    return " ".join(str(error).split("Config search path:")[0].split("full_key:")[0].split())


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for a command-line key that does not exist, naming the nearest one that does."""
    parser = OverridesParser.create()
    config = None
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise UserError(f"cannot read the override '{text}': {_one_line(error)}") from error
        key = override.key_or_group
        if override.is_add() or override.is_delete() or key.startswith("hydra"):
            continue
        config = config if config is not None else _compose()
        check_key(config, key, "command line")


def check_key(config: DictConfig, key: str, where: str) -> None:
    """Raise UserError where `key` (dotted) leads nowhere in `config`."""
    node: DictConfig = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        parent = ".".join(parts[:depth])
        if not OmegaConf.is_dict(node):
            raise UserError(f"{where}: '{key}': nothing lies below '{parent}'")
        if part not in node:
            known = nearest(part, map(str, node)) if node else ""
            add = f"; to add it, write +{key}=..." if any(fnmatch(parent, name) for name in OPEN) else ""
            raise UserError(f"{where}: unknown key '{key}'{known}{add}")
        node = node[part]
