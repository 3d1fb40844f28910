"""conf/: every group composes, every algorithm can be found, every key is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_class
from omegaconf import OmegaConf

from stages.algorithms.base import Algorithm
from stages.config.compose import CONF, ROOT, compose_config
from stages.config.validate import validate

FILES = sorted(path for path in CONF.rglob("*.yaml") if "hydra" not in path.parts)
# They stand in a block whose first line has the comment, or are named by the keys of transformers that they are.
SHARE_A_COMMENT = {"weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_steps", "clip_range_high"}
GROUPS = [path for path in FILES if path.parent.name not in ("launch", "conf")]


def named(path: Path) -> str:
    return str(path.relative_to(CONF))


def test_the_whole_composes_and_passes_the_door() -> None:
    validate(compose_config())


@pytest.mark.parametrize("name", ["default", "off"])
def test_tracking_groups(name: str) -> None:
    config = compose_config([f"tracking={name}"])
    validate(config)
    assert config.tracking.enabled is (name == "default")


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "rl").glob("*.yaml")))
def test_every_algorithm_s_file_names_a_class_with_settings_that_fit(name: str) -> None:
    section = compose_config().rl[name]
    kind: Any = get_class(section._target_)
    settings = kind.Settings
    assert issubclass(kind, Algorithm)
    values: Any = OmegaConf.to_container(section)
    values.pop("_target_")
    assert settings.model_validate(values).learning_rate == section.learning_rate


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_number_is_text_for_pyyaml(path: Path) -> None:
    """DVC's reader is not Hydra's: 1e-5 is text for one of them and a number for the other."""
    numbers = [
        value
        for value in leaves(yaml.safe_load(path.read_text()))
        if re.fullmatch(r"[-+]?[.\d]+([eE][-+]?\d+)?", value)
    ]
    assert numbers == []


def test_no_number_of_params_is_text_for_pyyaml() -> None:
    test_no_number_is_text_for_pyyaml(ROOT / "params.yaml")


def leaves(node: Any) -> list[str]:
    if isinstance(node, dict | list):
        values = node.values() if isinstance(node, dict) else node
        return [text for value in values for text in leaves(value)]
    return [node] if isinstance(node, str) else []


@pytest.mark.parametrize("path", GROUPS, ids=named)
def test_every_file_begins_with_what_it_is_for(path: Path) -> None:
    assert re.match(r"# [A-Z]", path.read_text())


@pytest.mark.parametrize("path", [path for path in GROUPS if path.parent.name != "data"], ids=named)
def test_every_key_has_a_comment_unless_a_group_it_builds_on_has_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    explained = {"_target_", "defaults", *SHARE_A_COMMENT}
    if path.parent.name in ("rl", "sft", "reward_model", "training"):
        explained |= keys(CONF / "training" / "default.yaml")
    if path.parent.name == "rl":
        explained |= keys(CONF / "training" / "online.yaml")
    if path.name == "off.yaml":
        explained |= keys(CONF / "tracking" / "default.yaml")
    bare = []
    for before, line in zip(["", *lines], lines, strict=False):
        match = re.match(r"(\w+):", line)
        if match and match[1] not in explained and not before.startswith("#") and "#" not in line:
            bare.append(match[1])
    assert bare == []


def keys(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text()))
