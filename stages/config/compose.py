"""The configuration, composed by Hydra from conf/, params.yaml and the command line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from stages.config.errors import UserError
from stages.config.yaml_text import check_yaml
from stages.data.nearest import nearest

# Never DVC_ROOT: inside a queued experiment it names the parent project, and the parent's values would be read.
ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PARAMS = "params.yaml"
# Sections whose keys are the user's own. Hydra takes a new one with a + only.
OPEN = (
    "run.inputs",
    "*.rewards",
    "*.task",
    "*.columns",
    "*.loss",
    "*.kl_estimator",
    "*.chat_template_kwargs",
)
# Sweeps whose values are known before a sweeper chooses them.
LISTED = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP)


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """What a stage sees. Raises UserError where params.yaml or an override cannot be read."""
    os.environ["PROJECT_ROOT"] = str(ROOT)
    params = _read_params(ROOT / PARAMS)
    try:
        check_overrides(overrides)
        return _compose(overrides)
    except UserError:
        _check_shape(params)  # of a list in the place of a section Hydra does not say where it is
        raise


def _read_params(path: Path) -> DictConfig:
    """DVC reads params.yaml as plain YAML. What Hydra alone would understand in it, DVC would take for a constant."""
    check_yaml(path, path.name)
    try:
        params = OmegaConf.load(path)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"{path.name} cannot be read: {one_line(error)}") from error
    for key in ("defaults", "hydra"):
        if key in params:
            raise UserError(f"{path.name}: '{key}' does not belong here but into conf/config.yaml")
    for line in OmegaConf.to_yaml(params).splitlines():
        if "${" in line:
            raise UserError(
                f"{path.name}: '{line.strip()}': write the value itself, for DVC does not resolve ${{...}}"
            )
    return cast(DictConfig, params)  # check_yaml has seen to it


def _check_shape(params: DictConfig) -> None:
    """Raise UserError for the first list of params.yaml that stands where conf/ has keys and values."""
    with TemporaryDirectory() as folder:
        (Path(folder) / PARAMS).touch()
        defaults = _compose([f"hydra.searchpath=['file://{folder}']"])
    for key in _lists(params):
        if OmegaConf.is_dict(OmegaConf.select(defaults, key)):
            raise UserError(f"{PARAMS}: {key} is a list; write keys and values below it, as `key: value`")


def _lists(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if OmegaConf.is_list(value):
            yield f"{prefix}{key}"
        elif OmegaConf.is_dict(value):
            yield from _lists(value, f"{prefix}{key}.")


def hydra_folder(overrides: Sequence[str], key: str) -> Path | None:
    """The folder that Hydra would make for hydra.run or hydra.sweep; None where the command line does not name it."""
    own = [text for text in overrides if text.lstrip("+").startswith("hydra")]
    if not any(text.lstrip("+").startswith(f"{key}.dir=") for text in own):
        return None
    try:
        return Path(OmegaConf.select(_compose(own, with_hydra=True), f"{key}.dir")).resolve()
    except OmegaConfBaseException as error:
        raise UserError(f"{key}.dir: {one_line(error)}") from error


def _compose(overrides: Sequence[str] = (), with_hydra: bool = False) -> DictConfig:
    for path in CONF.rglob("*.yaml"):
        check_yaml(path, str(path.relative_to(CONF.parent)))
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"the configuration cannot be composed: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Without where Hydra looked, which is internal and long."""
    return " ".join(str(error).split("Config search path:")[0].split("full_key:")[0].split())


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise UserError for a command-line key that does not exist, naming the nearest one that does, and for a value
    that the shell or Hydra has taken apart."""
    config = None
    for text in overrides:
        override = _parse(text)
        key = override.key_or_group
        if override.is_delete() or key.startswith("hydra"):
            continue
        _check_colons(text, override)
        if override.is_add():
            continue
        config = config if config is not None else _compose()
        check_key(config, key, "command line")
        section = OmegaConf.select(config, key)
        if OmegaConf.is_dict(section) and not (CONF / key).is_dir():
            _check_section(section, text, override)


def _parse(text: str) -> Override:
    """Raises UserError where Hydra cannot read it, with what it can read where quotes around a key are at fault."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        bare = re.sub(r"""(["'])([\w.]+:\w+)\1(?=\s*:)""", lambda match: match[2].replace(":", r"\:"), text)
        hint = f"; keys take no quotes, write {_added(bare)}" if bare != text else ""
        raise UserError(f"cannot read the override '{text}': {one_line(error)}{hint}") from error


def _values(override: Override) -> list[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    return list(override.sweep_iterator()) if override.value_type in LISTED else []


def _check_colons(text: str, override: Override) -> None:
    """Hydra reads {module:function:0.5} as the text function:0.5 under the key module, and a weight is a number."""
    for value in _values(override):
        for name, part in value.items() if isinstance(value, dict) else ():
            if override.key_or_group.endswith(".rewards") and isinstance(part, str) and ":" in part:
                whole = text.replace(f"{name}:{part}", rf"{name}\:{part}")
                raise UserError(
                    f"command line: '{text}': a colon within a name is written \\:, {_added(whole)}"
                )


def _check_section(section: DictConfig, text: str, override: Override) -> None:
    """What is given for a section are keys and values; where it is not, the shell may have taken the braces away."""
    key = override.key_or_group
    for value in _values(override):
        if not isinstance(value, dict):
            raise UserError(
                f"command line: '{text}': {key} takes keys and values, in quotes for the shell: '{key}={{name:1.0}}'; "
                r"a colon within a name is written \:"
            )
        for name in value:
            if name not in section:
                add = f"; to add it, write {_added(text)}" if _is_open(key) else ""
                raise UserError(
                    f"command line: unknown key '{key}.{name}'{nearest(name, map(str, section))}{add}"
                )


def _added(text: str) -> str:
    """With the + that adds keys and changes those that are there, in quotes for the shell."""
    return shlex.quote(f"+{text.lstrip('+')}")


def _is_open(section: str) -> bool:
    return any(fnmatch(section, name) for name in OPEN)


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
            add = f"; to add it, write +{key}=..." if _is_open(parent) else ""
            raise UserError(f"{where}: unknown key '{key}'{known}{add}")
        node = node[part]
