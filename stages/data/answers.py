"""Whether the prompts bring what the verifier reads: better said here than after sft is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.data.numbers import number_of_answer
from stages.data.records import BadRow, Record

# The rewards themselves are not imported: prepare would run again at every change of theirs.
READS = {"reasoning_gym": ("answer", "task", "metadata"), "numeric": ("answer",), "exact": ("answer",)}


def check_answers(role: str, verifier: str | None, examples: list[Example]) -> None:
    """Raises UserError where a built-in verifier would miss a column; a user's own goes unchecked."""
    if verifier is None:
        return
    for column in READS.get(verifier, ()):
        if any(example.columns.get(column) is None for example in examples):
            own = ", ".join(examples[0].columns) or "none"
            mend = f"map data.{role}.columns.answer" if column == "answer" else "generate the problems"
            raise UserError(
                f"data.verifier '{verifier}' reads the column '{column}', which not every row of data.{role} "
                f"has (columns: {own}); {mend}, or set another verifier, or null for none"
            )


def answer_check(verifier: str | None, records: Sequence[Record]) -> Callable[[Record], None]:
    """What raises BadRow for a prompt whose answer a built-in verifier cannot judge by, or that lacks a column that
    others of `records` have."""
    known = {column for record in records for column in record.columns}
    columns = [column for column in READS.get(verifier or "", ()) if column in known]

    def check(record: Record) -> None:
        if record.completions or verifier is None:  # nothing is sampled to be verified
            return
        for column in columns:
            if record.columns.get(column) is None:
                raise BadRow(f"no '{column}', which data.verifier '{verifier}' reads")
        if len(columns) == len(READS.get(verifier, ())):
            JUDGEABLE.get(verifier, _anything)(record.columns)

    return check


def _numeric(columns: dict[str, Any]) -> None:
    try:
        number_of_answer(columns["answer"])
    except ValueError as error:
        mend = "data.verifier 'numeric' wants one number, such as 1/2; 'exact' compares text"
        raise BadRow("the answer is not one number", f"column 'answer': {error}; {mend}") from error


def _exact(columns: dict[str, Any]) -> None:
    answer = columns["answer"]
    if isinstance(answer, list | dict) or not str(answer).strip():
        kind = "empty" if isinstance(answer, str) else f"{type(answer).__name__}, not text"
        detail = f"column 'answer': the answer is {kind}; data.verifier 'exact' compares text"
        raise BadRow("the answer is not text", detail)


def _reasoning_gym(columns: dict[str, Any]) -> None:
    task, metadata = columns["task"], columns["metadata"]
    if not isinstance(task, str) or task not in _tasks():
        raise BadRow("unknown reasoning_gym task", f"column 'task': reasoning_gym has no task {task!r}")
    if not isinstance(metadata, dict):
        raise BadRow(f"column 'metadata': it is {type(metadata).__name__}, not an object")


def _anything(_: dict[str, Any]) -> None:
    """A user's own verifier knows best."""


@cache
def _tasks() -> frozenset[str]:
    from reasoning_gym.factory import DATASETS

    return frozenset(DATASETS)


JUDGEABLE: dict[str, Callable[[dict[str, Any]], None]] = {
    "numeric": _numeric,
    "exact": _exact,
    "reasoning_gym": _reasoning_gym,
}
