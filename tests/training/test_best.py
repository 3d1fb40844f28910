"""The best weights are handed on, to the last bit, whenever the run was killed and whatever was damaged.

The loop is real; the evaluations follow a script, by the step whose bits the weights have: weights of another run than
the whole one have no place in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stages.algorithms.base import Algorithm
from stages.models.load import add_adapter
from stages.outcome import Outcome
from stages.training import whole
from stages.training.evaluation import Evaluation
from tests.algorithms.tiny import examples_of, make, settings_of
from tests.models.tiny import lora, tiny_llama
from tests.training.test_checkpoints import Killed, flip, names, same
from tests.training.tiny import run

RIGHT = [
    3,
    5,
    4,
    2,
    4,
    7,
    6,
    6,
]  # of 10 answers, after 0 to 7 steps: best at first, after step 1, after step 5
STEPS = len(RIGHT) - 1
CASES = [("sft", False), ("sft", True), ("ppo", True)]
State = dict[str, torch.Tensor]


def fresh(name: str, adapters: bool) -> Algorithm:
    policy = tiny_llama(num_hidden_layers=1)
    return make(name, add_adapter(policy, lora(lora_dropout=0.2)) if adapters else policy)


def digest(state: State) -> str:
    values = (value.contiguous().numpy().tobytes() for _, value in sorted(state.items()))
    return hashlib.sha256(b"".join(values)).hexdigest()


def right(count: int) -> Evaluation:
    return Evaluation({"eval/gold_accuracy": count / 10}, [1.0] * count + [0.0] * (10 - count), [1.0] * 10)


class Script:
    """The states of a whole run, and runs whose evaluations look theirs up."""

    def __init__(self, name: str, adapters: bool, folder: Path) -> None:
        self.name, self.adapters, self.folder = name, adapters, folder
        self.states: list[State] = []
        algorithm = fresh(name, adapters)

        def record() -> Evaluation:
            self.states.append({key: value.clone() for key, value in algorithm.state_dict().items()})
            return Evaluation()

        self._train(algorithm, folder / "recorded", record)
        self.steps = {digest(state): step for step, state in enumerate(self.states)}
        assert len(self.steps) == STEPS + 1  # every step moves something

    def run(
        self, folder: Path, counts: list[int] = RIGHT, dies_at: int | None = None, **changes: object
    ) -> tuple[State, Outcome | None]:
        """The weights that are handed on; killed in the evaluation after step `dies_at`."""
        algorithm = fresh(self.name, self.adapters)

        def evaluate() -> Evaluation:
            step = self.steps[digest(algorithm.state_dict())]
            if step == dies_at:
                raise Killed
            return right(counts[step])

        try:
            outcome = self._train(algorithm, folder, evaluate, **changes)
        except Killed:
            return algorithm.state_dict(), None
        return algorithm.state_dict(), outcome

    def _train(
        self, algorithm: Algorithm, folder: Path, evaluate: Callable[[], Evaluation], **changes: object
    ) -> Outcome:
        settings = settings_of(self.name, max_steps=STEPS, eval_steps=1, **changes)
        return run(
            algorithm, examples_of(self.name), settings, folder, save_steps=2, evaluate=evaluate
        ).outcome


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}{'-lora' if case[1] else ''}")
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script(*request.param, tmp_path_factory.mktemp("script"))


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Script:
    return Script("sft", False, tmp_path_factory.mktemp("script"))


def test_the_best_step_is_handed_on(script: Script, tmp_path: Path) -> None:
    weights, outcome = script.run(tmp_path / "run")
    assert same(weights, script.states[5])
    assert outcome is not None and (outcome.kept_step, outcome.last_step, outcome.value) == (5, 7, 0.7)
    last, outcome = script.run(tmp_path / "last", keep="last")
    assert same(last, script.states[7])
    assert outcome is not None and (outcome.kept_step, outcome.value) == (7, 0.6)
    assert names(tmp_path / "last") == ["step-4", "step-6"]


@pytest.mark.parametrize("dies_at", range(1, STEPS + 1))
def test_killed_after_any_step_it_ends_with_the_same_bits(
    script: Script, dies_at: int, tmp_path: Path
) -> None:
    """In step 6 the newest checkpoint is that of step 4, which names best-1, and best-5 is there as well."""
    script.run(tmp_path / "run", dies_at=dies_at)
    if dies_at == 6:
        assert names(tmp_path / "run") == ["best-1", "best-5", "step-2", "step-4"]
    weights, outcome = script.run(tmp_path / "run")
    assert same(weights, script.states[5])
    assert outcome == script.run(tmp_path / "whole")[1]


def test_step_0_may_be_the_best(script: Script, tmp_path: Path) -> None:
    """Fresh adapters, or a value head, come back as they began; the sixth step is after the kill."""
    counts = [9, 8, 9, 7, 8, 8, 8, 8]
    script.run(tmp_path / "run", counts, dies_at=6)
    weights, outcome = script.run(tmp_path / "run", counts)
    assert same(weights, script.states[0])
    assert outcome is not None and (outcome.kept_step, outcome.difference) == (0, None)


def test_only_what_is_trained_is_written(script: Script, tmp_path: Path) -> None:
    script.run(tmp_path / "run")
    found = {path.name: {file.name for file in path.iterdir()} for path in (tmp_path / "run").glob("best-*")}
    assert found["best-5"] == {"weights.safetensors", "digests.json"}
    size = (tmp_path / "run" / "best-5" / "weights.safetensors").stat().st_size
    whole_size = sum(value.nbytes for value in script.states[0].values())
    assert size < whole_size / 2 if script.adapters else size > whole_size / 2


def test_a_fall_stops_it_across_a_kill_too(sft: Script, tmp_path: Path) -> None:
    """Ten of ten answers, then none, twice: no chance. The first of the two is in the checkpoint."""
    counts = [5, 10, 9, 9, 0, 0, 10, 10]
    sft.run(tmp_path / "run", counts, dies_at=5)
    for folder in ("run", "whole"):
        weights, outcome = sft.run(tmp_path / folder, counts)
        assert same(weights, sft.states[1])
        assert outcome is not None
        assert (outcome.kept_step, outcome.last_step, outcome.total_steps) == (1, 5, 7)
        assert outcome.stopped_early == "it fell, and had not recovered by step 5"


def test_patience_runs_out_across_a_kill(sft: Script, tmp_path: Path) -> None:
    """Two evaluations before the checkpoint of step 4 count."""
    counts = [5, 6, 7, 6, 6, 6, 9, 9]
    sft.run(tmp_path / "run", counts, dies_at=5, early_stopping_patience=3)
    weights, outcome = sft.run(tmp_path / "run", counts, early_stopping_patience=3)
    assert same(weights, sft.states[2])
    assert outcome is not None and outcome.stopped_early == "no better in 3 evaluations, by step 5"


def test_a_kill_while_the_best_is_written_leaves_the_one_before(
    sft: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = whole.seal

    def killed(folder: Path) -> None:
        if folder.name == "partial-best-5":
            raise Killed
        seal(folder)

    with monkeypatch.context() as patched:
        patched.setattr(whole, "seal", killed)
        patched.setattr(
            whole, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None)
        )  # the dead tidy nothing
        sft.run(tmp_path / "run")
    assert names(tmp_path / "run") == ["best-1", "partial-best-5", "step-2", "step-4"]
    assert same(sft.run(tmp_path / "run")[0], sft.states[5])


def test_a_checkpoint_whose_best_is_damaged_is_set_aside(
    sft: Script, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 6 names best-5, and the one before it best-1."""
    sft.run(tmp_path / "run", dies_at=7)
    assert names(tmp_path / "run") == ["best-1", "best-5", "step-4", "step-6"]
    flip(tmp_path / "run" / "best-5" / "weights.safetensors", -1)
    shutil.copytree(tmp_path / "run", tmp_path / "both")
    with caplog.at_level(logging.INFO, "stages"):
        assert same(sft.run(tmp_path / "run")[0], sft.states[5])
    assert "step-6 cannot be used (weights.safetensors of best-5 is missing or damaged)" in caplog.text
    assert "going on from step 4 of 7" in caplog.text

    caplog.clear()
    shutil.rmtree(tmp_path / "both" / "best-1")
    with caplog.at_level(logging.INFO, "stages"):
        assert same(sft.run(tmp_path / "both")[0], sft.states[5])
    assert "step-4 cannot be used (digests.json of best-1 is missing or damaged)" in caplog.text
    assert "going on" not in caplog.text


def test_a_damaged_story_of_the_older_checkpoint_stops_nothing(sft: Script, tmp_path: Path) -> None:
    sft.run(tmp_path / "run", dies_at=5)
    (tmp_path / "run" / "step-2" / "story.json").write_text("{")
    assert same(sft.run(tmp_path / "run")[0], sft.states[5])


def test_the_outcome_is_plain_json_and_comes_back(sft: Script, tmp_path: Path) -> None:
    _, outcome = sft.run(tmp_path / "run")
    assert outcome is not None
    outcome.write(tmp_path / "selection.json")
    written = json.loads((tmp_path / "selection.json").read_text())
    assert list(written) == [
        "metric", "direction", "kept_step", "last_step", "total_steps", "stopped_early", "value", "start_value",
        "difference", "n",
    ]  # fmt: skip
    assert (written["metric"], written["kept_step"], written["n"]) == ("eval/gold_accuracy", 5, 10)
    assert written["difference"]["mean"] == pytest.approx(0.4)
    assert Outcome.read(tmp_path / "selection.json") == outcome
