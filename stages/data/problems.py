"""Generated problems from reasoning-gym, whose tasks bring their own verifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from stages.config.errors import UserError
from stages.data.nearest import nearest
from stages.data.records import Row

# Small tasks repeat themselves: after this many draws per wanted problem, there are no more distinct ones.
DRAWS_PER_PROBLEM = 20
COLUMNS = ("answer", "task", "metadata")  # what the task's own verifier reads


def generate_problems(
    task: str, settings: dict[str, Any], size: int, seed: int, with_answer: bool
) -> Iterator[Row]:
    """Up to `size` distinct problems, fewer where the task has no more.

    Columns: prompt; answer, task, metadata (for the verifier); and with `with_answer` the completion.
    Raises UserError on an unknown task or setting.
    """
    problems = _create(task, settings, size * DRAWS_PER_PROBLEM, seed)
    seen: set[str] = set()
    for index in range(len(problems)):
        problem = problems[index]
        if problem["question"] in seen:
            continue
        seen.add(problem["question"])
        own = (problem["answer"], task, problem["metadata"])
        values = {"prompt": problem["question"], **dict(zip(COLUMNS, own, strict=True))}
        if with_answer:
            values["completion"] = problem["answer"]
        yield Row(values, f"reasoning_gym {task}, problem {index}")
        if len(seen) == size:
            return


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
