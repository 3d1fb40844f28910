"""Verifiers: gold rewards that are computed, not learned. 1 is right, 0 is wrong, between is partly right.

A verifier is called as a user's reward function is: `prompts`, `completions` and the data's columns, one
entry per completion; it returns a number per completion, or None where it does not apply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, cast

from stages.config.errors import UserError

Scores = list[float | None]

# A minus is a sign only where it does not follow a digit, a word or a bracket: 16-3 ends with 3, not with -3.
NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d+(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+")
MARKERS = ("####", "A:")  # what stands before the final answer: in GSM8K, and in its model solutions


def reasoning_gym(
    prompts: Sequence[str],
    completions: Sequence[str],
    task: Sequence[str],
    answer: Sequence[str],
    metadata: Sequence[dict[str, Any]],
) -> Scores:
    """The task's own score of an answer. Many tasks give a little for a right answer among other words."""
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
    """1 where the completion's last number equals the answer's: the one after `####` or `A:`, else its last.

    Raises UserError where an answer holds no number.
    """
    right = [number_of_answer(text) for text in answer]
    return [float(last_number(text) == number) for text, number in zip(completions, right, strict=True)]


def exact(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any]) -> Scores:
    """1 where the completion is the answer, but for white space around it."""
    return [
        float(text.strip() == str(right).strip()) for text, right in zip(completions, answer, strict=True)
    ]


def last_number(text: str) -> Decimal | None:
    """The last number of a text, commas of thousands removed; None where there is none."""
    numbers = NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "")) if numbers else None


def number_of_answer(answer: Any) -> Decimal:
    """The number that an answer column gives. Raises UserError where it holds none."""
    text = str(answer)
    for marker in MARKERS:
        found = NUMBER.search(text.rpartition(marker)[2]) if marker in text else None
        if found:
            return Decimal(found[0].replace(",", ""))
    number = last_number(text)
    if number is None:
        raise UserError(f"data.verifier numeric: the answer {text[:60]!r} holds no number")
    return number


VERIFIERS: dict[str, Callable[..., Scores]] = {
    "reasoning_gym": reasoning_gym,
    "numeric": numeric,
    "exact": exact,
}
