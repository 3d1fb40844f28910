"""The door: the whole configuration is checked before any stage does anything."""

from __future__ import annotations

from typing import Any, TypeVar

from hydra.utils import get_class, get_method
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from stages.config.errors import UserError
from stages.config.schema import Settings
from stages.data.nearest import nearest

S = TypeVar("S", bound=Settings)

# By name and not by import: what is only checked at the door is no part of what a stage computes, and a change
# of it re-runs nothing.
SECTIONS = {
    "model": "stages.config.schema.ModelSettings",
    "data": "stages.data.settings.DataSettings",
    "sft": "stages.config.schema.TrainingSettings",
    "reward_model": "stages.config.schema.TrainingSettings",
    "evaluate": "stages.evaluation.settings.EvaluateSettings",
    "run": "stages.config.schema.RunSettings",
    "tracking": "stages.tracking.settings.TrackingSettings",
}


def validate(config: DictConfig) -> None:
    """Raise UserError for an unknown section, key or algorithm (naming the nearest) or a value out of its range."""
    for name in config:
        if name not in {*SECTIONS, "seed", "rl"}:
            raise UserError(
                f"params.yaml: unknown section '{name}'{nearest(str(name), [*SECTIONS, 'seed', 'rl'])}"
            )
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**31:
        raise UserError(
            f"params.yaml: seed is {config.seed!r}; it must be a whole number from 0 to 2147483647"
        )
    for name, shape in SECTIONS.items():
        read(config, name, get_class(shape))
    algorithms = [str(name) for name in config.rl if name != "algo"]
    if config.rl.algo not in algorithms:
        raise UserError(
            f"params.yaml: rl.algo: unknown algorithm '{config.rl.algo}'{nearest(config.rl.algo, algorithms)}"
        )
    for name in algorithms:
        if "_target_" not in (config.rl[name] or {}):
            raise UserError(
                f"params.yaml: unknown key 'rl.{name}'{nearest(name, [a for a in algorithms if a != name])}"
            )
        read(config, f"rl.{name}", get_class(config.rl[name]._target_).Settings)
    check_rewards = get_method("stages.rewards.check.check_rewards")
    check_rewards(dict(config.rl[config.rl.algo].rewards), config.data.verifier)


def read(config: DictConfig, section: str, shape: type[S]) -> S:
    """A section as its settings. Raises UserError for the first thing that is wrong with it."""
    values: Any = OmegaConf.to_container(OmegaConf.select(config, section), resolve=True)
    values.pop("_target_", None)
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([section, *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            *parents, name = first["loc"]
            known = _fields(shape, parents)
            raise UserError(f"params.yaml: unknown key '{key}'{nearest(str(name), known)}") from error
        given = "" if first["type"] == "missing" else f" (it is {first['input']!r})"
        raise UserError(f"params.yaml: {key}: {first['msg']}{given}") from error


def _fields(shape: type[Settings], parents: list[int | str]) -> list[str]:
    for name in parents:
        shape = shape.model_fields[str(name)].annotation  # type: ignore[assignment]
    return list(shape.model_fields)


def needs_reward_model(config: DictConfig) -> bool:
    """Whether the chosen algorithm's rewards name the learned reward model."""
    return config.rl[config.rl.algo].rewards.get("reward_model", 0) != 0
