"""The shape of the configuration: types and ranges. Defaults live in conf/ alone."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from stages.machine import multiplies_in_bf16

LARGEST = 2**31 - 1  # of whole numbers: nothing that is counted here is more, and libraries take no more
# Those of transformers' schedules that need nothing but a number of steps.
SchedulerName = Literal["linear", "cosine", "constant", "constant_with_warmup"]


def _resolve(value: Any) -> Any:
    if isinstance(value, str) and value != "auto":
        raise ValueError("write true, false or auto")
    return multiplies_in_bf16() if value == "auto" else value


Bf16 = Annotated[bool, BeforeValidator(_resolve)]  # written as true, false or auto, and read as a bool


class Settings(BaseModel):
    """Unknown keys are errors, no key has a default here, and a value is of its type: "16" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _countable(cls, value: Any) -> Any:
        if type(value) is int and abs(value) > LARGEST:
            raise ValueError(f"Input should be at most {LARGEST}")
        return value


class TrainingSettings(Settings):
    """What every trained stage and algorithm shares; meanings in conf/training/default.yaml."""

    learning_rate: float = Field(gt=0)
    lr_scheduler_type: SchedulerName
    warmup_ratio: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0)
    adam_beta1: float = Field(ge=0, lt=1)
    adam_beta2: float = Field(ge=0, lt=1)
    adam_epsilon: float = Field(gt=0)
    max_grad_norm: float = Field(gt=0)
    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=-1)
    batch_size: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    bf16: Bf16
    gradient_checkpointing: bool
    eval_steps: float = Field(ge=0, le=LARGEST)
    max_eval_samples: int | None = Field(ge=1)
    keep: Literal["best", "last"]
    early_stopping_patience: int | None = Field(ge=1)
    logging_steps: int = Field(ge=1)

    @field_validator("eval_steps")
    @classmethod
    def _share_or_steps(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("write a share of all steps, below 1, or a whole number of steps")
        return value


class RewardModelSettings(TrainingSettings):
    """The `reward_model` section."""

    kind: Literal["head", "likelihood"]
    merge_adapter: bool


class OfflineSettings(TrainingSettings):
    """What every algorithm that learns from ready completions shares."""

    rewards: dict[str, float]
    max_new_tokens: int = Field(ge=1)

    @field_validator("rewards")
    @classmethod
    def _no_rewards(cls, rewards: dict[str, float]) -> dict[str, float]:
        if rewards:
            raise ValueError("this algorithm learns from preferences and takes no rewards; write rewards: {}")
        return rewards


class OnlineSettings(TrainingSettings):
    """What every algorithm that samples shares; meanings in conf/training/online.yaml."""

    rewards: dict[str, float]
    num_generations: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(gt=0)
    missing_eos_penalty: float = Field(ge=0)


class ModelSettings(Settings):
    """The `model` section."""

    path: str | None = Field(min_length=1)
    revision: str | None
    trust_remote_code: bool
    liger: bool
    torch_compile: bool
    lora: bool
    lora_r: int = Field(ge=1)
    lora_alpha: float = Field(gt=0)
    lora_dropout: float = Field(ge=0, lt=1)
    lora_target_modules: str | list[str]
    merge_adapter: bool

    @field_validator("lora_target_modules", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError("write all-linear, or a list of module names such as [q_proj, v_proj]")
        if isinstance(value, str):  # a pattern, which whole names must match
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"this is not a pattern: {error}") from error
        return value


class RunSettings(Settings):
    """The `run` section: how a stage runs, never what comes out of it."""

    save_steps: int = Field(ge=1)
    inputs: dict[str, str]
    check_space: bool
