"""The type of all data: its length, and what several share."""

from __future__ import annotations

from stages.trees import common_prefix
from tests.models.tiny import tree


def test_a_prompt_counts_once():
    assert len(tree([1, 10], [11, 2], [12])) == 5


def test_common_prefix():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5], [1, 2]]) == 2
    assert common_prefix([[1, 2], [3]]) == 0
    assert common_prefix([[4, 4, 4]]) == 3
