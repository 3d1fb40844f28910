"""The shape of the `tracking` section: types and ranges. The defaults are in conf/tracking/default.yaml."""

from __future__ import annotations

from pydantic import Field

from stages.config.schema import Settings


class TrackingSettings(Settings):
    """Where the metrics go."""

    enabled: bool
    uri: str | None
    experiment: str = Field(min_length=1)
    finish_timeout: float = Field(ge=0)
    drain_timeout: float = Field(ge=0)
