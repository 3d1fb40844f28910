"""What prepare tells about the data: recognised as what, how much was kept, what was left out and why."""

from __future__ import annotations

from typing import Any

from stages.data.dataset import Dataset
from stages.data.examples import Example
from stages.data.holdout import Split
from stages.data.usage import columns_line


def describe_role(dataset: Dataset, split: Split) -> dict[str, Any]:
    """The role's part of report.json: read + split = kept + grouped + dropped, kept = train +
    validation + test + excluded."""
    verified = dataset.role == "prompt" or (
        dataset.role == "preference" and any(example.scores is None for example in dataset.examples)
    )
    return {
        "source": dataset.source,
        "format": dataset.format,
        "style": dataset.style,
        "columns": dataset.usage.describe(dataset.role, verified),
        "read": dataset.read,
        "kept": len(dataset.examples),
        "grouped": dataset.grouped,
        "split": dataset.split,
        "unanswered": dataset.unanswered,
        "dropped": dict(sorted(dataset.dropped.items())),
        "truncated": dataset.truncated,
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
        "excluded_for_held_out_prompts": split.excluded,
        "train_tokens": _tokens(split.train),
        "digest": dataset.digest,
    }


def summary(role: str, report: dict[str, Any]) -> str:
    """Two lines for the log: rows, and columns."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in report["dropped"].items()) or "none"
    excluded = report["excluded_for_held_out_prompts"]
    aside = f", {excluded} left aside (their prompt is held out)" if excluded else ""
    held_out = f"{report['validation']} held out to validate, {report['test']} to test"
    rows = f"{report['read']} rows read, {report['train']} to train on, {held_out}{aside}"
    if report["split"]:
        rows += f", {report['split']} added, for the template has each answer of these dialogues stand alone"
    if report["unanswered"]:
        rows += f", {report['unanswered']} end in turns without an answer, which are left out"
    return (
        f"{role}: {rows}, {report['truncated']} truncated; dropped: {left_out}\n"
        f"{role}: {columns_line(report['columns'])}"
    )


def _tokens(examples: list[Example]) -> dict[str, int]:
    completions = [completion for example in examples for completion in example.tree.completions]
    prompts = [len(example.tree.prompt.input_ids) for example in examples]
    return {
        "prompt": sum(prompts),
        "completion": sum(len(completion.input_ids) for completion in completions),
        "target": sum(sum(completion.loss_mask) for completion in completions),
        "longest_prompt": max(prompts),
        "longest_completion": max((len(completion.input_ids) for completion in completions), default=0),
    }
