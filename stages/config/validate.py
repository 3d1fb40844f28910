"""The door: the whole configuration is checked before any stage does anything."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, TypeVar

from hydra.utils import get_class, get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from stages.config.errors import UserError
from stages.config.schema import OnlineSettings, Settings
from stages.data.nearest import nearest
from stages.graph import graph

S = TypeVar("S", bound=Settings)

# By name and not by import: what is only checked at the door is no part of what a stage computes, and a change
# of it re-runs nothing.
SECTIONS = {
    "model": "stages.config.schema.ModelSettings",
    "data": "stages.data.settings.DataSettings",
    "sft": "stages.config.schema.TrainingSettings",
    "reward_model": "stages.config.schema.RewardModelSettings",
    "evaluate": "stages.evaluation.settings.EvaluateSettings",
    "run": "stages.config.schema.RunSettings",
    "tracking": "stages.tracking.settings.TrackingSettings",
}


def validate(config: DictConfig) -> None:
    """Raise UserError for an unknown section, key or algorithm (naming the nearest) or a value out of its range."""
    try:
        OmegaConf.resolve(config.copy())
    except OmegaConfBaseException as error:
        raise UserError(f"params.yaml: {' '.join(str(error).split())}") from error
    sections = [*SECTIONS, "seed", "rl"]
    for name in config:
        if name not in sections:
            raise UserError(f"params.yaml: unknown section '{name}'{nearest(str(name), sections)}")
    seed = config.get("seed")
    if type(seed) is not int or not 0 <= seed < 2**31:  # True is an int, too
        raise UserError(
            f"params.yaml: seed is {_shown(seed)}; it must be a whole number from 0 to 2147483647"
        )
    for name, shape in SECTIONS.items():
        read(config, name, get_class(shape))
    if unknown := [name for name in config.run.inputs if name not in graph()]:
        raise UserError(
            f"params.yaml: run.inputs: there is no stage '{unknown[0]}'{nearest(unknown[0], graph())}"
        )
    _validate_rl(config)
    if config.model.liger:
        get_method("stages.models.liger.check_liger")()
    if config.model.torch_compile:
        get_method("stages.models.compiled.check_compiler")()


def _validate_rl(config: DictConfig) -> None:
    """Every algorithm's block, for a mistake in one that is not chosen would wait there; rewards of the chosen one."""
    section = _section(config, "rl")
    algorithms = [str(name) for name in section if name != "algo"]
    chosen = section.get("algo")
    if chosen not in algorithms:
        raise UserError(
            f"params.yaml: rl.algo: unknown algorithm '{chosen}'{nearest(str(chosen), algorithms)}"
        )
    shapes = {name: _settings_of(config, name, algorithms) for name in algorithms}
    for name, shape in shapes.items():
        read(config, f"rl.{name}", shape)
    rewards = dict(section[chosen].rewards)
    if issubclass(shapes[chosen], OnlineSettings) and not rewards:
        raise UserError(
            f"params.yaml: rl.{chosen}.rewards is empty: name what is to be learned, such as {{reward_model: 1.0}}"
        )
    check_rewards = get_method("stages.rewards.check.check_rewards")
    check_rewards(rewards, config.data.verifier)


def _settings_of(config: DictConfig, name: str, algorithms: list[str]) -> type[Settings]:
    target = _section(config, f"rl.{name}").get("_target_")
    if target is None:  # no conf/rl/<name>.yaml gave it one
        section = _section(config, "rl")
        others = [
            other
            for other in algorithms
            if OmegaConf.is_dict(section[other]) and "_target_" in section[other]
        ]
        raise UserError(f"params.yaml: unknown key 'rl.{name}'{nearest(name, others)}")
    module, _, kind = str(target).rpartition(".")
    try:
        return getattr(import_module(module), kind).Settings
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"rl.{name}._target_: {target} is no algorithm: {error}") from error


def _section(config: DictConfig, name: str) -> DictConfig:
    section = OmegaConf.select(config, name)
    if not OmegaConf.is_dict(section):
        raise UserError(f"params.yaml: '{name}' is {section!r}; write keys and values below it, or {{}}")
    return section


def read(config: DictConfig, section: str, shape: type[S]) -> S:
    """A section as its settings. Raises UserError for the first thing that is wrong with it."""
    values: Any = OmegaConf.to_container(_section(config, section), resolve=True)
    values.pop("_target_", None)
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in _existing(first["loc"], values)]
        key = ".".join([section, *path])
        if first["type"] == "extra_forbidden":
            known = _fields(shape, path[:-1])
            raise UserError(f"params.yaml: unknown key '{key}'{nearest(path[-1], known)}") from error
        if first["type"] == "missing":
            raise UserError(f"params.yaml: '{key}.{first['loc'][-1]}' is missing") from error
        raise UserError(
            f"params.yaml: {key}: {first['msg'].removeprefix('Value error, ')} (it is {_shown(first['input'])})"
        ) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _existing(location: tuple[int | str, ...], values: Any) -> Iterator[int | str]:
    """The part of pydantic's location that leads through the values; behind it may come a type's name."""
    for part in location:
        within = isinstance(values, list) and isinstance(part, int)
        if not within and not (isinstance(values, dict) and part in values):
            return
        yield part
        values = values[part]  # type: ignore[call-overload]


def _fields(shape: type[Settings], parents: list[str]) -> list[str]:
    for name in parents:
        shape = shape.model_fields[name].annotation  # type: ignore[assignment]
    return list(shape.model_fields)


def needs_reward_model(config: DictConfig) -> bool:
    """Whether the chosen algorithm's rewards name the learned reward model."""
    return config.rl[config.rl.algo].rewards.get("reward_model", 0) != 0
