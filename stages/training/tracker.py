"""What training needs of a tracker."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Tracker(Protocol):
    """The methods that the loop calls."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...
    def state_dict(self) -> dict: ...
    def load_state_dict(self, state: dict) -> None: ...
