"""Generated problems from reasoning-gym, whose tasks bring their own verifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stages.config.errors import UserError
from stages.data.nearest import nearest
from stages.data.records import Row

# Small tasks repeat themselves: after this many draws per wanted problem, there are no more distinct ones.
DRAWS_PER_PROBLEM = 20
COLUMNS = ("answer", "task", "metadata")  # what the task's own verifier reads


def generate_problems(
    task: str,
    settings: dict[str, Any],
    size: int,
    seed: int,
    with_answer: bool,
    fill: Callable[[Iterable[Row]], Iterator[Row]] = iter,
) -> Iterator[Row]:
    """Problems of up to `size` distinct prompts, fewer where the task has no more.

    Columns: prompt; answer, task, metadata (for the verifier); and with `with_answer` the completion.
    fill: writes other prompts, by which problems are told apart then; rows that it marks as bad count for nothing.
    Raises UserError on an unknown task or setting.
    """
    problems = _create(task, settings, size * DRAWS_PER_PROBLEM, seed)
    seen: set[str] = set()
    for row in fill(_row(task, problems[index], index, with_answer) for index in range(len(problems))):
        if not row.bad:
            if row.values["prompt"] in seen:
                continue
            seen.add(row.values["prompt"])
        yield row
        if len(seen) == size:
            return


def _row(task: str, problem: dict[str, Any], index: int, with_answer: bool) -> Row:
    own = (problem["answer"], task, problem["metadata"])
    values = {"prompt": problem["question"], **dict(zip(COLUMNS, own, strict=True))}
    if with_answer:
        values["completion"] = problem["answer"]
    return Row(values, f"reasoning_gym {task}, problem {index}")


def _create(task: str, settings: dict[str, Any], size: int, seed: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise UserError(f"reasoning_gym has no task '{task}'{nearest(task, DATASETS)}")
    known = {field.name for field in dataclasses.fields(DATASETS[task][1])} - {"seed", "size"}
    for key in settings:
        if key not in known:
            raise UserError(f"reasoning_gym task '{task}' has no setting '{key}'{nearest(key, known)}")
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"reasoning_gym task '{task}' refuses its settings {settings}: {error}") from error
