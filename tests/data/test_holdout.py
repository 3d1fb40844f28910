"""Held-out prompts are trained on in no role."""

from __future__ import annotations

import pytest

from stages.config.errors import UserError
from stages.data.dataset import Dataset
from stages.data.examples import Example
from stages.data.holdout import Sizes, Split, hold_out
from stages.trees import Node, Tree


def dataset(role: str, openings: list[str]) -> Dataset:
    examples = [Example(Tree(Node([], []), []), opening, None, {}) for opening in openings]
    return Dataset(role, "here", False, openings=openings, examples=examples)


def prompts(split: Split) -> tuple[list[str], list[str], list[str]]:
    """To train on, to validate on, to test on."""
    train, validation, test = (
        [example.prompt for example in part] for part in (split.train, split.validation, split.test)
    )
    return train, validation, test


def names(start: int, end: int) -> list[str]:
    return [f"prompt {index}" for index in range(start, end)]


def test_no_role_trains_on_what_any_role_holds_out() -> None:
    datasets = [dataset("sft", names(0, 60)), dataset("prompt", names(30, 90))]
    splits = hold_out(datasets, Sizes(10, 7), seed=1)
    held = {prompt for split in splits.values() for part in prompts(split)[1:] for prompt in part}
    assert [(len(split.validation), len(split.test)) for split in splits.values()] == [(7, 10), (7, 10)]
    assert not any(held & set(prompts(split)[0]) for split in splits.values())
    assert [len(s.train) + len(s.validation) + len(s.test) + s.excluded for s in splits.values()] == [60, 60]


@pytest.mark.parametrize("seed", range(5))
def test_no_role_chooses_on_what_any_role_tests_on(seed: int) -> None:
    """Of overlapping roles the 10 first of one may lie behind the 10 first of the other."""
    datasets = [dataset("sft", names(0, 60)), dataset("prompt", names(30, 90)), dataset("x", names(0, 90))]
    splits = hold_out(datasets, Sizes(10, 10), seed)
    tested = {prompt for split in splits.values() for prompt in prompts(split)[2]}
    assert not any(tested & set(prompts(split)[1]) for split in splits.values())


def test_a_larger_validation_set_leaves_the_test_set_as_it_is() -> None:
    tests = [
        prompts(hold_out([dataset("sft", names(0, 60))], Sizes(10, size), seed=1)["sft"])[2]
        for size in (1, 30)
    ]
    assert tests[0] == tests[1]


def test_roles_with_the_same_prompts_hold_out_the_same_and_lose_none() -> None:
    splits = hold_out([dataset("sft", names(0, 50)), dataset("prompt", names(0, 50)[::-1])], Sizes(10, 5), 1)
    assert [set(part) for part in prompts(splits["sft"])] == [set(part) for part in prompts(splits["prompt"])]
    assert [split.excluded for split in splits.values()] == [0, 0]


def test_the_choice_is_the_seed_s_and_ignores_the_order_of_rows() -> None:
    def held(seed: int, openings: list[str]) -> set[str]:
        return set(prompts(hold_out([dataset("sft", openings)], Sizes(5, 5), seed)["sft"])[2])

    assert held(1, names(0, 50)) == held(1, names(0, 50)[::-1])
    assert held(1, names(0, 50)) != held(2, names(0, 50))


def test_rows_of_one_opening_stay_on_one_side() -> None:
    rows = dataset("sft", [name for name in names(0, 10) for _ in range(3)])
    split = hold_out([rows], Sizes(4, 2), seed=1)["sft"]
    train, validation, test = map(set, prompts(split))
    assert not train & test and not train & validation and not validation & test
    assert (len(split.train), len(split.validation), len(split.test), split.excluded) == (12, 2, 4, 12)


def test_too_few_prompts_are_an_error() -> None:
    message = "data.sft has 5 distinct prompts, and data.test_size 3 and data.validation_size 2 leave none to train on"
    with pytest.raises(UserError, match=message):
        hold_out([dataset("sft", names(0, 5))], Sizes(3, 2), seed=1)


def test_a_role_whose_every_prompt_others_hold_out_is_an_error() -> None:
    """Of six prompts one role holds out four, and two others, between them, the two that are left."""
    others = [dataset("prompt", [*names(0, 3), *names(10, 12)]), dataset("x", names(3, 6) + names(12, 14))]
    with pytest.raises(
        UserError, match="data.sft: every prompt is held out in some role, and none is left to"
    ):
        hold_out([dataset("sft", names(0, 6)), *others], Sizes(2, 2), seed=0)
