"""What a change re-runs, through the real dvc."""

from __future__ import annotations

import json
import time

from tests.graph.project import STAGES, Project


def edit(project: Project, path: str, old: str = "", new: str = "") -> None:
    file = project.root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1) if old else text + "\n# a change\n")


def test_nothing_changed_runs_nothing(project: Project) -> None:
    started = time.monotonic()
    assert project.repro() == []
    assert time.monotonic() - started < 30
    assert project.git("status", "--porcelain") == ""


def test_a_value_of_the_algorithm_runs_rl_and_evaluate_and_flipping_it_back_runs_nothing(
    project: Project,
) -> None:
    before = project.metrics("rl"), project.metrics("evaluate")
    project.set(rl__ppo__kl_coef=2.0)
    assert project.repro() == ["rl", "evaluate"]
    assert project.metrics("rl") != before[0]

    project.set(rl__ppo__kl_coef=0.02)
    assert project.repro() == []  # the run-cache has it
    assert (project.metrics("rl"), project.metrics("evaluate")) == before


def test_reward_model_settings_run_what_uses_it_and_under_dpo_only_its_marker(project: Project) -> None:
    project.set(reward_model__weight_decay=0.5)
    assert project.repro() == ["reward_model", "rl", "evaluate"]

    project.set(rl__algo="dpo")
    assert project.repro() == ["reward_model", "rl", "evaluate"]
    assert json.loads((project.root / "data" / "reward_model" / "marker.json").read_text()) == {
        "trained": False
    }
    assert not (project.root / "data" / "reward_model" / "model").exists()

    project.set(reward_model__weight_decay=0.0)
    assert project.repro() == ["reward_model"]  # the same marker, so nothing behind it


def test_a_sweep_of_beta_computes_the_reference_once(project: Project) -> None:
    project.set(rl__algo="dpo")
    assert "completions are known" not in project.dvc("repro", "rl")
    project.set(rl__dpo__beta=0.5)
    assert "completions are known" in project.dvc("repro", "rl")
    assert len(list((project.root / ".checkpoints" / "reference").iterdir())) == 1


def test_changed_data_run_everything(project: Project) -> None:
    with (project.root / "data" / "raw" / "pairs.jsonl").open("a") as file:
        file.write('{"prompt": "A?", "chosen": "B.", "rejected": "C.", "answer": "B."}\n')
    assert project.repro() == STAGES


def test_what_each_value_and_each_file_reaches_first(project: Project) -> None:
    """`dvc status` names the stages whose own dependencies differ; those behind them follow from their outputs."""
    assert project.stale() == []
    project.set(seed=1)
    assert project.stale() == STAGES
    project.set(seed=0, run__save_steps=3, tracking__enabled=True)
    edit(project, "conf/rl/dpo.yaml", "beta: 0.1", "beta: 0.2")
    edit(project, "conf/rl/ppo.yaml", "# optimizer steps per pass", "# a comment is no value")
    edit(project, "stages/algorithms/dpo.py")
    edit(project, "stages/algorithms/grpo.py")
    edit(project, "stages/results.py")
    assert project.stale() == []

    edit(project, "stages/algorithms/ppo.py")
    assert project.stale() == ["rl"]
    edit(project, "conf/evaluate/default.yaml", "confidence: 0.95", "confidence: 0.9")
    assert project.stale() == ["rl", "evaluate"]
    edit(project, "stages/algorithms/sft.py")
    assert project.stale() == ["sft", "rl", "evaluate"]
    edit(project, "stages/data/formats.py")
    assert project.stale() == ["prepare", "sft", "rl", "evaluate"]
    edit(project, "conf/reward_model/default.yaml", "batch_size: 32", "batch_size: 31")
    assert project.stale() == STAGES


def test_another_choice_of_groups_reaches_every_stage(project: Project) -> None:
    edit(project, "conf/config.yaml", "# Every random choice follows from it.", "# A comment is no value.")
    assert project.stale() == []
    edit(project, "conf/config.yaml", "- evaluate: default", "- evaluate: other")
    assert project.stale() == STAGES
    edit(project, "conf/config.yaml", "- evaluate: other", "- evaluate: default")
    assert project.stale() == []


def test_where_it_runs_and_whether_it_is_tracked_run_nothing(project: Project) -> None:
    assert (
        project.repro(TREELINE_LAUNCH="gpu", MLFLOW_TRACKING_URI="http://127.0.0.1:9", OMP_NUM_THREADS="3")
        == []
    )


def test_with_adapters_the_reward_model_runs_on_the_policys_own_base(project: Project) -> None:
    project.set(model__lora=True)
    output = project.dvc("repro", "rl")
    assert "the reward model is an adapter on the policy's own base" in output
    assert (project.root / "data/reward_model/model/adapter_config.json").exists()
    assert not list((project.root / "data/rl/model").rglob("adapter*"))
    assert project.metrics("rl")
