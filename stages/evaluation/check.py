"""What can be known to fail before a model is loaded: after an hour of measuring it would be too late."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.tokenizers import load_tokenizer
from stages.evaluation.curves import Points, stage_curves
from stages.models.reward_kinds import REWARD_MODELS
from stages.outcome import Outcome
from stages.workspace import SELECTION


def check_model(folder: Path, stage: str) -> None:
    """Raise UserError where a stage's output holds no model, or weights that end before they should."""
    remedy = remedy_of(stage)
    read_config(folder, remedy)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder} holds no weights: {remedy}")
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged ({error}): {remedy}") from error


def check_reward_model(folder: Path) -> None:
    """The same for the reward model, whose kind must be one that is known."""
    check_model(folder, "reward_model")
    kind = read_config(folder, remedy_of("reward_model")).get("reward_kind")
    if kind not in REWARD_MODELS:
        raise UserError(
            f"{folder}/config.json: unknown reward_kind {kind!r}; known are {', '.join(REWARD_MODELS)}"
        )


def read_config(folder: Path, remedy: str) -> dict:
    """A model's config.json."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no model with a config.json that can be read: {remedy}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder}/config.json holds no settings: {remedy}")
    return config


def read_stage_curves(folders: Mapping[str, Path]) -> dict[str, dict[str, Points]]:
    """The curves that the report draws. Raises UserError where one is damaged."""
    found: dict[str, dict[str, Points]] = {}
    for stage, folder in folders.items():
        try:
            found |= stage_curves({stage: folder})
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(f"{folder / 'curves.csv'} is damaged: {remedy_of(stage)}") from error
    return found


def read_outcome(folder: Path, stage: str) -> Outcome | None:
    """Which checkpoint a stage kept, if it says so. Raises UserError where that is damaged."""
    path = folder / SELECTION
    try:
        return Outcome.read(path) if path.exists() else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {remedy_of(stage)}") from error


def read_tokenizer(folder: Path, stage: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer of a stage's model."""
    try:
        return load_tokenizer(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{folder} has no tokenizer that can be loaded ({first}): {remedy_of(stage)}"
        ) from error


def remedy_of(stage: str) -> str:
    return f"`dvc checkout {stage}` restores it, `dvc repro --force {stage}` makes it again"
