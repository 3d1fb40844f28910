"""Answers of the models side by side: rows for MLflow, a CSV, and a Markdown page to read."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.data.examples import Example
from stages.evaluation.answer import Answer
from stages.evaluation.text import markdown_cell


def sample_rows(
    examples: Sequence[Example], answers: Mapping[str, Sequence[Answer]], limit: int
) -> list[dict[str, Any]]:
    """The first `limit` prompts (not chosen: the first), with each model's completion and what it scored."""
    rows: list[dict[str, Any]] = []
    for index, example in enumerate(examples[:limit]):
        row: dict[str, Any] = {"prompt": example.prompt}
        if example.columns.get("answer") is not None:
            row["answer"] = str(example.columns["answer"])
        for name, given in answers.items():
            row[name] = given[index].completion
            if given[index].gold is not None:
                row[f"{name}_gold"] = given[index].gold
            if given[index].reward_model_score is not None:
                row[f"{name}_score"] = given[index].reward_model_score
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per prompt."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_markdown(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """A table with a row per prompt and a column per model, right answers ticked."""
    columns = ["prompt", *(["answer"] if any("answer" in row for row in rows) else []), *names]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = [cell(row.get(column, ""), row.get(f"{column}_gold")) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    path.write_text("# Samples\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


def cell(text: str, gold: float | None) -> str:
    """Text that stays inside its cell, marked by whether it is right."""
    mark = "" if gold is None else ("✓ " if gold == 1 else "✗ ")
    return mark + markdown_cell(text.strip())
