"""What is found at a stage's door, before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.config.compose import compose_config
from stages.data.examples import Example, write_examples
from stages.seal import seal
from stages.trees import Node, Tree
from stages.workspace import open_stage

MODULE = "def cites(completions, source): return [1.0 for _ in completions]\n"


@pytest.mark.parametrize("stage", ["sft", "reward_model", "rl", "evaluate"])
def test_a_column_that_a_reward_lacks_is_told_before_sft_trains(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "door_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = compose_config(["rl.algo=grpo"])
    config.rl.grpo.rewards = {"door_rewards:cites": 1.0}
    config.run.inputs = dict.fromkeys(("prepare", "sft", "reward_model", "rl"), str(tmp_path))
    (tmp_path / "model.json").touch()
    (tmp_path / "model").mkdir()
    write_examples(
        tmp_path / "prompt.jsonl", [Example(Tree(Node([1], [False]), []), "?", None, {"sources": 1})]
    )
    with pytest.raises(SystemExit) as ended, open_stage(stage, config):
        raise AssertionError("the stage's body is not entered")
    assert ended.value.code == 2
    line = (
        "error: data.prompt: reward 'door_rewards:cites' needs the column 'source'; did you mean 'sources'?\n"
    )
    assert capsys.readouterr().err == line


def test_data_that_are_damaged_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row of the preferences is looked at, whatever the stage."""
    config = compose_config(["rl.algo=dpo"])
    config.run.inputs = {"prepare": str(tmp_path)}
    (tmp_path / "model.json").touch()
    file = tmp_path / "preference.jsonl"
    write_examples(file, [Example(Tree(Node([1], [False]), []), "?", [1.0, 0.0], {})])
    seal(tmp_path)
    for damage in (file.read_bytes()[:20], None):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(SystemExit), open_stage("sft", config):
            raise AssertionError("the stage's body is not entered")
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {file} is not what was written there") and printed.count("\n") == 1
