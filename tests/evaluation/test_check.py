"""What evaluate refuses: most of it before a model is loaded, and without a trace."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.config.errors import UserError
from stages.evaluate import evaluate
from stages.evaluation.measure import Measurer
from tests.evaluation.tiny import save_reward_model, stage


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "rl" / "curves.csv").write_text("step,train/loss\n1,2.0,3.0\n"),
            "curves.csv is damaged",
        ),
        (lambda root: (root / "rl" / "curves.csv").write_text("train/loss\n2.0\n"), "curves.csv is damaged"),
        (lambda root: (root / "rl" / "selection.json").write_text("{}"), "selection.json is damaged"),
        (lambda root: shutil.rmtree(root / "rl" / "model"), "rl is no output of rl: it has no model"),
        (lambda root: cut(root / "rl" / "model" / "model.safetensors"), "model.safetensors is damaged"),
        (
            lambda root: cut(root / "reward_model" / "model" / "model.safetensors"),
            "model.safetensors is damaged",
        ),
        (
            lambda root: (root / "reward_model" / "model" / "config.json").write_text("{}"),
            "unknown reward_kind",
        ),
        (lambda root: (root / "sft" / "model" / "tokenizer.json").write_text("{"), "has no tokenizer"),
    ],
)
def test_what_is_damaged_is_found_before_a_model_is_loaded(
    spoil: Callable[[Path], Any], message: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "project")
    spoil(tmp_path / "project")
    monkeypatch.setattr(Measurer, "policies", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(UserError, match=message):
        evaluate(stage(tmp_path / "project", tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def cut(path: Path) -> None:
    """As a download or a copy that stopped."""
    path.write_bytes(path.read_bytes()[:-100])


def test_a_verifier_that_the_data_cannot_feed(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no number"):
        evaluate(stage(project, tmp_path / "out", "data.verifier=numeric"))
    assert list((tmp_path / "out").iterdir()) == []


def test_answers_longer_than_the_model_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="evaluate.max_new_tokens is .* tokens, and the model has positions for"
    ):
        evaluate(stage(project, tmp_path / "out", "evaluate.max_new_tokens=100000"))


def test_a_reward_model_whose_score_is_not_finite_is_told_with_its_completion(
    project: Path, tmp_path: Path
) -> None:
    save_reward_model(tmp_path / "model", reward_std=0.0)  # (0 + 1) / 0
    run = stage(project, tmp_path / "out", f"+run.inputs.reward_model={tmp_path}")
    message = (
        "reward 'reward_model' returned inf, not a finite number or None, for the completion .* '0 \\+ 1 ='"
    )
    with pytest.raises(UserError, match=message):
        evaluate(run)
