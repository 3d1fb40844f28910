"""Sources other than files: generated problems, and data sets as the hub's library loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from stages.config.errors import UserError
from stages.data.records import Row
from stages.data.settings import DataSettings, RoleSettings
from stages.data.sources import read_rows, unlike_templates
from tests.data.tiny import make_config, write_jsonl

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def read(role: str = "prompt", seed: int = 1, **changes: Any) -> list[Row]:
    own = {"source": "reasoning_gym", "path": "none", "name": "chain_sum", "subset": None, "revision": None}
    own |= {"split": "train", "task": SMALL, "size": 20, "columns": {}, "ignore": [], "prompt_template": None}
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


def test_generated_problems_take_their_prompt_from_a_template() -> None:
    letters = "{{ metadata.letters | join(' ') }}"
    rows = read(name="palindrome_generation", task={}, size=5, prompt_template=letters)
    assert [row.values["prompt"] for row in rows] == [
        " ".join(row.values["metadata"]["letters"]) for row in rows
    ]
    assert set(rows[0].values) == {"prompt", "answer", "task", "metadata"}
    assert rows[0].prompt_from == {"metadata", "prompt"}
    with pytest.raises(UserError) as error:
        read(role="sft", prompt_template="{{ letters }}")
    assert str(error.value) == (
        "reasoning_gym chain_sum, problem 0: no column 'letters', which data.sft.prompt_template reads, and the "
        "columns are prompt, answer, task, metadata, completion"
    )


def test_generated_problems_are_distinct_by_what_the_template_writes() -> None:
    # Sums of two digits, or their differences, are from -9 to 18.
    written = questions(read(size=15, prompt_template="{{ answer }}"))
    assert len(written) == len(set(written)) == 15
    spent = questions(read(size=500, prompt_template="{{ answer }}"))
    assert len(spent) == len(set(spent)) <= 28
    rows = read(
        size=9, prompt_template="{% if answer == '7' %}{{ metadata.no }}{% else %}{{ answer }}{% endif %}"
    )
    assert len([row for row in rows if not row.bad]) == 9
    assert {row.bad for row in rows} <= {
        "",
        "data.prompt.prompt_template: 'dict object' has no attribute 'no'",
    }


def test_a_template_over_files_and_a_data_set_of_the_hub_s_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    path = write_jsonl(tmp_path / "data" / "train.jsonl", [{"q": "a"}, {"q": None}, {"q": "c"}, {"q": "d"}])
    for own in ({"source": "files", "path": str(path)}, {"source": "hub", "name": str(path.parent)}):
        first, bad, last = read(**own, size=3, prompt_template="{{ q }}?")
        assert (first.values, last.values) == ({"q": "a", "prompt": "a?"}, {"q": "c", "prompt": "c?"})
        assert bad.bad == "data.prompt.prompt_template: it writes a null (null here: q)"


def test_a_template_writes_what_a_csv_file_says(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("code,price,level\n007,1.50,3\n")
    (row,) = read(source="files", path=str(tmp_path / "a.csv"), prompt_template="{{ code }}: {{ price }}")
    assert row.values == {"code": "007", "price": "1.50", "level": 3, "prompt": "007: 1.50"}


def test_roles_that_make_other_prompts_of_the_same_rows_are_named() -> None:
    def said(*overrides: str) -> list[str]:
        return unlike_templates(
            DataSettings.model_validate(OmegaConf.to_container(make_config(*overrides).data))
        )

    template = "prompt_template='{{ prompt }}!'"
    assert said() == said(*(f"data.{role}.{template}" for role in ("sft", "preference", "prompt"))) == []
    assert said(f"data.prompt.{template}") == [
        "sft and prompt read reasoning_gym chain_sum with different values of prompt_template: a row that one holds "
        "out, another may train on"
    ]
    assert said(f"data.prompt.{template}", "data.prompt.source=files") == []
