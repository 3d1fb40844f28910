from __future__ import annotations

import pytest

from stages.rollout import cache


@pytest.fixture(autouse=True)
def little_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches grow and shrink within the tests' short texts."""
    monkeypatch.setattr(cache, "GROWTH", 4)
