"""What prepare writes and later stages read: a tree of tokens, text to show, and the row's other columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.data.sealed import check_sealed
from stages.trees import Node, Tree


@dataclass(frozen=True)
class Example:
    """One row, ready to train on.

    scores: one per completion, higher is better: chosen 1 and rejected 0, a ranking's scores, an unpaired
        row's label as 1 or 0; None where the row says nothing of the kind.
    columns: what a verifier or a user's reward function may want to see, such as `answer`.
    """

    tree: Tree
    prompt: str
    scores: list[float] | None
    columns: dict[str, Any]


def has_pair(example: Example) -> bool:
    """Whether two of its completions score differently."""
    return len(set(example.scores or [])) > 1


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """One JSON object a line, in the given order, so that equal examples are equal bytes."""
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(_to_json(example), ensure_ascii=False, default=str) + "\n")


def read_examples(path: Path) -> list[Example]:
    """The examples of a file that `write_examples` wrote. Raises UserError where it is not as prepare left it."""
    check_sealed(path)
    return list(iter_examples(path))


def iter_examples(path: Path) -> Iterator[Example]:
    """The same, one by one."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield _from_json(json.loads(line))


def _to_json(example: Example) -> dict[str, Any]:
    completions = [
        {"input_ids": c.input_ids, "loss_mask": [int(m) for m in c.loss_mask]}
        for c in example.tree.completions
    ]
    return {
        "prompt": example.prompt,
        "prompt_ids": example.tree.prompt.input_ids,
        "completions": completions,
        "scores": example.scores,
        "columns": example.columns,
    }


def _from_json(row: dict[str, Any]) -> Example:
    prompt = Node(row["prompt_ids"], [False] * len(row["prompt_ids"]))
    completions = [Node(c["input_ids"], [bool(m) for m in c["loss_mask"]]) for c in row["completions"]]
    return Example(Tree(prompt, completions), row["prompt"], row["scores"], row["columns"])
