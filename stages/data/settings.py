"""The shape of the `data` section: types and ranges. Defaults live in conf/data/default.yaml alone."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from hydra.utils import get_method
from pydantic import Field, field_validator, model_validator

from stages.config.schema import Settings


class RoleSettings(Settings):
    """Where one role's rows come from."""

    source: Literal["files", "hub", "reasoning_gym"]
    path: str
    name: str | None
    subset: str | None
    revision: str | None
    split: str
    task: dict[str, Any]
    size: int | None = Field(ge=1)
    columns: dict[str, str | list[str]]
    ignore: list[str]
    prompt_template: str | None

    @field_validator("prompt_template")
    @classmethod
    def _is_template(cls, value: str | None, info: Any) -> str | None:
        if value is None:
            return value
        mapped = info.data.get("columns", {})  # not there where its own check has failed
        owns = [own for each in mapped.values() for own in ([each] if isinstance(each, str) else each)]
        if "prompt" in (*mapped, *(own.split(".")[0] for own in owns), *info.data.get("ignore", [])):
            raise ValueError("it writes the column 'prompt': remove that from `columns` and `ignore`")
        # By name and not by import: later stages read these settings, and no template.
        get_method("stages.data.prompt_template.compiled")(value)
        return value


class SamplingSettings(Settings):
    """How completions are sampled for preference prompts that have none."""

    num_generations: int = Field(ge=2)
    temperature: float = Field(gt=0)
    max_new_tokens: int = Field(ge=1)


class PreferenceSettings(RoleSettings):
    """The preference role, with the sampling of missing completions."""

    sampling: SamplingSettings


class DataSettings(Settings):
    """The whole `data` section."""

    sft: RoleSettings
    preference: PreferenceSettings
    prompt: RoleSettings
    chat: Literal["auto", "always", "never"]
    system_prompt: str | None
    chat_template_kwargs: dict[str, Any]
    chat_template_date: str
    max_prompt_length: int = Field(ge=1)
    max_length: int = Field(ge=2)
    test_size: int = Field(ge=1)
    validation_size: int = Field(ge=1)
    bad_rows: Literal["error", "drop"]
    verifier: str | None

    @field_validator("chat_template_date")
    @classmethod
    def _is_date(cls, value: str) -> str:
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise ValueError("it must be a date such as 2025-01-31") from None

    @model_validator(mode="after")
    def _prompt_leaves_room(self) -> DataSettings:
        if self.max_prompt_length >= self.max_length:
            raise ValueError("max_prompt_length must be below max_length, or no completion fits")
        return self
