"""dvc.yaml as the stages see it: what a stage depends on is written there, and nowhere else."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf

from stages.config.compose import ROOT
from stages.data.digest import path_digest


class Dependencies(NamedTuple):
    """inputs: names of earlier stages. paths: the other files and folders. params: dotted keys of the config."""

    inputs: list[str]
    paths: list[str]
    params: list[str]


@cache
def graph() -> dict[str, Any]:
    """The stages of dvc.yaml, in their order."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def dependencies(stage: str, config: DictConfig) -> Dependencies:
    """What dvc.yaml says, with `${rl.algo}` and the like filled in from the config."""

    def fill(text: str) -> str:
        return re.sub(r"\$\{([\w.]+)\}", lambda match: str(OmegaConf.select(config, match[1])), text)

    deps = [fill(dep) for dep in graph()[stage]["deps"]]
    outputs = {out: name for name, entry in graph().items() for out in entry["outs"]}
    # A params entry with a file name is a mapping. The config holds that file's values already.
    params = [fill(entry) for entry in graph()[stage]["params"] if isinstance(entry, str)]
    return Dependencies(
        [outputs[d] for d in deps if d in outputs], [d for d in deps if d not in outputs], params
    )


def downstream(stage: str) -> list[str]:
    """The stage and those that follow it, in order."""
    names = list(graph())
    return names[names.index(stage) :]


def fingerprint(stage: str, config: DictConfig, inputs: dict[str, Path]) -> str:
    """Of all that a stage's output follows from: its values, the content of its inputs, and its code."""
    needs = dependencies(stage, config)
    values = {key: OmegaConf.select(config, key) for key in needs.params}
    digest = hashlib.sha256(
        OmegaConf.to_yaml(OmegaConf.create(values), resolve=True, sort_keys=True).encode()
    )
    for path in [*(inputs[name] for name in needs.inputs), *(ROOT / path for path in needs.paths)]:
        digest.update(path_digest(path).encode())
    return digest.hexdigest()[:16]
