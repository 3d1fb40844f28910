"""What a reward gives, checked before anything is computed with it: a finite number for each completion, or None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.trees import Tree

LARGEST = torch.finfo(torch.float32).max
SHOWN = 60  # characters of a prompt and of a completion in an error


def as_scores(name: str, scores: Any, count: int) -> list[float | None]:
    """What a function returned, as floats and None. Raises UserError where it is no list of `count` of them."""
    kind = type(scores).__name__
    try:
        if isinstance(scores, str | bytes | Mapping | Set):
            raise TypeError
        scores = list(scores.tolist() if hasattr(scores, "tolist") else scores)  # arrays, tensors
    except TypeError:
        raise UserError(f"reward '{name}' returned {kind}, not a list") from None
    if len(scores) != count:
        raise UserError(f"reward '{name}' returned {len(scores)} scores for {count} completions")
    return [_as_score(name, score) for score in scores]


def _as_score(name: str, score: Any) -> float | None:
    try:
        if isinstance(score, str | bytes) or getattr(score, "ndim", 0):
            raise TypeError
        return None if score is None else float(score)
    except (TypeError, ValueError):
        raise UserError(f"reward '{name}' returned {shorten(score)}, not a finite number or None") from None


def check_finite(
    name: str,
    scores: Sequence[float | None],
    examples: Sequence[Example],
    trees: Sequence[Tree],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Raise UserError that names the first completion whose score is NaN, or infinite in float32."""
    for index, score in enumerate(scores):
        if score is not None and not abs(score) <= LARGEST:
            where = name_completion(index, examples, trees, tokenizer)
            raise UserError(f"reward '{name}' returned {score}, not a finite number or None, for {where}")


def name_completion(
    index: int,
    examples: Sequence[Example],
    trees: Sequence[Tree],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> str:
    """A completion, counted in tree order, in words; by its tokens without a tokenizer."""
    owners = [
        (example, node)
        for example, tree in zip(examples, trees, strict=True)
        for node in tree.completions
    ]  # fmt: skip
    example, node = owners[index]
    text = tokenizer.decode(node.input_ids, skip_special_tokens=True) if tokenizer else node.input_ids
    return f"the completion {shorten(text)} of the prompt {shorten(example.prompt)}"


def shorten(value: Any) -> str:
    """As Python writes it, in one line, its middle left out where it is long."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"
