"""Held-out prompts are trained on in no role."""

from __future__ import annotations

import pytest

from stages.config.errors import UserError
from stages.data.dataset import Dataset
from stages.data.examples import Example
from stages.data.holdout import Split, hold_out
from stages.trees import Node, Tree


def dataset(role: str, openings: list[str]) -> Dataset:
    examples = [Example(Tree(Node([], []), []), opening, None, {}) for opening in openings]
    return Dataset(role, "here", False, openings=openings, examples=examples)


def prompts(split: Split) -> tuple[list[str], list[str]]:
    return [example.prompt for example in split.train], [example.prompt for example in split.test]


def names(start: int, end: int) -> list[str]:
    return [f"prompt {index}" for index in range(start, end)]


def test_no_role_trains_on_what_any_role_holds_out() -> None:
    splits = hold_out([dataset("sft", names(0, 60)), dataset("prompt", names(30, 90))], 10, seed=1)
    held = set(prompts(splits["sft"])[1]) | set(prompts(splits["prompt"])[1])
    assert all(len(split.test) == 10 for split in splits.values())
    assert not any(held & set(prompts(split)[0]) for split in splits.values())
    assert [len(s.train) + len(s.test) + s.excluded for s in splits.values()] == [60, 60]


def test_roles_with_the_same_prompts_hold_out_the_same_and_lose_none() -> None:
    splits = hold_out([dataset("sft", names(0, 50)), dataset("prompt", names(0, 50)[::-1])], 10, seed=1)
    assert set(prompts(splits["sft"])[1]) == set(prompts(splits["prompt"])[1])
    assert [split.excluded for split in splits.values()] == [0, 0]


def test_the_choice_is_the_seed_s_and_ignores_the_order_of_rows() -> None:
    def held(seed: int, openings: list[str]) -> set[str]:
        return set(prompts(hold_out([dataset("sft", openings)], 5, seed)["sft"])[1])

    assert held(1, names(0, 50)) == held(1, names(0, 50)[::-1])
    assert held(1, names(0, 50)) != held(2, names(0, 50))


def test_rows_of_one_opening_stay_on_one_side() -> None:
    split = hold_out([dataset("sft", [name for name in names(0, 10) for _ in range(3)])], 4, seed=1)["sft"]
    train, test = prompts(split)
    assert not set(train) & set(test)
    assert (len(train), len(test), split.excluded) == (18, 4, 8)


def test_too_few_prompts_are_an_error() -> None:
    with pytest.raises(UserError, match="data.sft has 5 distinct prompts, and data.test_size 5 leaves none"):
        hold_out([dataset("sft", names(0, 5))], 5, seed=1)
