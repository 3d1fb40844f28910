"""Sources other than files: generated problems, and data sets as the hub's library loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.config.errors import UserError
from stages.data.records import Row
from stages.data.settings import RoleSettings
from stages.data.sources import read_rows
from tests.data.tiny import write_jsonl

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def read(role: str = "prompt", seed: int = 1, **changes: Any) -> list[Row]:
    own = {"source": "reasoning_gym", "path": "none", "name": "chain_sum", "subset": None, "revision": None}
    own |= {"split": "train", "task": SMALL, "size": 20, "columns": {}, "ignore": []}
    return list(read_rows(role, RoleSettings.model_validate(own | changes), seed))


def questions(rows: list[Row]) -> list[str]:
    return [row.values["prompt"] for row in rows]


def test_problems_are_distinct_seeded_and_each_role_s_own() -> None:
    first = questions(read())
    assert len(set(first)) == 20
    assert first == questions(read())
    assert first != questions(read(seed=2))
    assert first != questions(read(role="preference"))


def test_problems_hold_what_the_verifier_needs() -> None:
    values = read(role="sft")[0].values
    assert values["completion"] == values["answer"]
    assert values["task"] == "chain_sum" and values["metadata"]["source_dataset"] == "chain_sum"
    assert "completion" not in read(role="prompt")[0].values


def test_a_spent_task_gives_fewer_problems() -> None:
    # 10 * 10 * 2 sums of two digits
    assert 100 < len(read(size=500)) <= 200


def test_unknown_tasks_and_settings_name_the_nearest() -> None:
    with pytest.raises(UserError, match="no task 'chainsum'; did you mean 'chain_sum'"):
        read(name="chainsum")
    with pytest.raises(UserError, match="no setting 'min_term'; did you mean 'min_terms'"):
        read(task={"min_term": 2})
    with pytest.raises(UserError, match="refuses its settings"):
        read(task={"min_terms": 3, "max_terms": 2})
    with pytest.raises(UserError, match="data.prompt.size"):
        read(size=None)


def test_size_takes_the_first_rows_of_a_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": str(index)} for index in range(5)])
    assert questions(read(source="files", path=str(path), size=2)) == ["0", "1"]
    assert len(read(source="files", path=str(path), size=None)) == 5


def test_a_data_set_of_the_hub_s_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "a", "score": 1}, {"prompt": "b", "score": 2}])
    rows = read(source="hub", name=str(tmp_path), size=None)
    assert [row.values for row in rows] == [{"prompt": "a", "score": 1}, {"prompt": "b", "score": 2}]
    assert rows[1].where.endswith("row 2")


def test_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.prompt: cannot load .*none:train from the hub: "):
        read(source="hub", name=str(tmp_path / "none"))
    with pytest.raises(UserError, match="data.prompt.name"):
        read(source="hub", name=None)
