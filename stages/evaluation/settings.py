"""The shape of the `evaluate` section: types and ranges. The defaults are in conf/evaluate/default.yaml."""

from __future__ import annotations

from pydantic import Field

from stages.config.schema import Bf16, Settings


class EvaluateSettings(Settings):
    """How models are compared."""

    num_prompts: int | None = Field(ge=1)
    temperature: float = Field(ge=0)
    num_generations: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    bf16: Bf16
    bootstrap_samples: int = Field(ge=100)
    confidence: float = Field(gt=0, lt=1)
    num_samples: int = Field(ge=0)
