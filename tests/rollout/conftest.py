from __future__ import annotations

import pytest

from stages.rollout import cache


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches grow and shrink within the tests' short texts."""
    monkeypatch.setattr(cache, "TILE", 4)
