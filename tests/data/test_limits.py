"""Length limits: cut, counted, left out (LESSON 4)."""

from __future__ import annotations

import pytest

from stages.data.limits import Limits
from stages.data.records import BadRow, LeftOut
from stages.trees import Node, Tree


def tree(prompt: int, *completions: list[int]) -> Tree:
    """A prompt of so many tokens; in completions, 0 stands for a token that is no target."""
    answers = [Node(ids, [token != 0 for token in ids]) for ids in completions]
    return Tree(Node([7] * prompt, [False] * prompt), answers)


def test_what_fits_is_left_alone() -> None:
    whole = tree(3, [1, 2])
    assert Limits(3, 5).fit(whole) is whole


def test_an_overlong_prompt_is_a_bad_row_but_not_in_sft() -> None:
    with pytest.raises(BadRow, match="5 tokens and data.max_prompt_length is 4"):
        Limits(4, 9).fit(tree(5, [1]))
    assert Limits(None, 9).fit(tree(5, [1])).completions[0].input_ids == [1]


def test_completions_are_cut_at_the_limit() -> None:
    assert Limits(3, 5).fit(tree(3, [1, 2, 3, 4])).completions == [Node([1, 2], [True, True])]


def test_what_follows_the_last_target_is_cut_too() -> None:
    assert Limits(3, 7).fit(tree(3, [1, 2, 0, 0, 3])).completions == [Node([1, 2], [True, True])]


def test_a_row_that_loses_every_target_is_left_out() -> None:
    for prompt in (5, 6):
        with pytest.raises(LeftOut, match="every target truncated"):
            Limits(None, 5).fit(tree(prompt, [1, 2]))


def test_completions_that_the_cut_makes_equal_are_left_out() -> None:
    with pytest.raises(LeftOut, match="equal once truncated"):
        Limits(3, 5).fit(tree(3, [1, 2, 3], [1, 2, 4]))
