"""Verifiers: gold rewards that are computed, not learned. 1 is right, 0 is wrong, between is partly right.

A verifier is called as a user's reward function is: `prompts`, `completions` and the data's columns, one
entry per completion; it returns a number per completion, or None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, cast

from stages.config.errors import UserError
from stages.data import numbers
from stages.data.numbers import last_number

Scores = list[float | None]


def reasoning_gym(
    prompts: Sequence[str],
    completions: Sequence[str],
    task: Sequence[str],
    answer: Sequence[str],
    metadata: Sequence[dict[str, Any]],
) -> Scores:
    """1 where the task's own score is 1. Its partial credit is left out: a policy learns to collect it instead of
    answering (docs/overoptimisation.md), above all where rewards are divided by their deviation in a group."""
    own = reasoning_gym_partial(prompts, completions, task, answer, metadata)
    return [float(score is not None and score >= 1.0) for score in own]


def reasoning_gym_partial(
    prompts: Sequence[str],
    completions: Sequence[str],
    task: Sequence[str],
    answer: Sequence[str],
    metadata: Sequence[dict[str, Any]],
) -> Scores:
    """The task's own score of an answer, 0 to 1. Many tasks give a little for what is nearly right, or for a right
    answer among other words. As a reward: `stages.rewards.verifiers:reasoning_gym_partial`."""
    entries = [
        {"question": question, "answer": right, "metadata": details}
        for question, right, details in zip(prompts, answer, metadata, strict=True)
    ]
    texts = (completion.strip() for completion in completions)
    rows = zip(task, texts, entries, strict=True)
    return [float(score_answer(name)(text, entry)) for name, text, entry in rows]


@cache
def score_answer(task: str) -> Callable[[str, dict[str, Any]], float]:
    """The scoring function of a reasoning-gym task. Raises UserError on an unknown task."""
    from reasoning_gym.factory import get_score_answer_fn

    try:
        return cast("Callable[[str, dict[str, Any]], float]", get_score_answer_fn(task))
    except ValueError as error:
        raise UserError(f"data.verifier: reasoning_gym has no task '{task}'") from error


def numeric(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any]) -> Scores:
    """1 where the number that the completion ends with equals the answer's, exactly (see stages/data/numbers.py).

    Raises UserError where an answer is not one number.
    """
    right = [number_of_answer(text) for text in answer]
    return [float(last_number(text) == number) for text, number in zip(completions, right, strict=True)]


def exact(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any]) -> Scores:
    """1 where the completion is the answer, but for white space around it."""
    return [
        float(text.strip() == str(right).strip()) for text, right in zip(completions, answer, strict=True)
    ]


def number_of_answer(answer: Any) -> Fraction:
    """The number that an answer column gives. Raises UserError where it is not one number."""
    try:
        return numbers.number_of_answer(answer)
    except ValueError as error:
        raise UserError(f"data.verifier numeric: {error}") from error


VERIFIERS: dict[str, Callable[..., Scores]] = {
    "reasoning_gym": reasoning_gym,
    "numeric": numeric,
    "exact": exact,
}
