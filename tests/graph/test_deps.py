"""dvc.yaml names every file that a stage's result follows from, and not the files of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stages.config.compose import compose_config
from stages.graph import dependencies, downstream, graph
from tests.graph.imports import closure, uncovered
from tests.graph.project import ROOT, STAGES

ALGORITHMS = sorted(path.stem for path in (ROOT / "conf" / "rl").glob("*.yaml"))
# What turns texts into trees concerns prepare alone; what generates and judges, only those that do.
FOREIGN = {
    "sft": [
        "stages/rollout",
        "stages/rewards",
        "stages/evaluation",
        "stages/data/formats.py",
        "stages/advantages.py",
    ],
    "reward_model": [
        "stages/evaluation",
        "stages/data/formats.py",
        "stages/advantages.py",
        "stages/algorithms/sft.py",
    ],
    "rl": ["stages/evaluation", "stages/data/formats.py", "stages/algorithms/sft.py", "stages/sft.py"],
    "evaluate": ["stages/training", "stages/algorithms", "stages/data/formats.py", "stages/advantages.py"],
}


def deps(stage: str, algorithm: str = "ppo") -> list[str]:
    return dependencies(stage, compose_config([f"rl.algo={algorithm}"])).paths


def test_the_graph_has_exactly_five_stages() -> None:
    assert list(graph()) == STAGES
    assert [entry["outs"] for entry in graph().values()] == [[f"data/{stage}"] for stage in STAGES]
    commands = {entry["cmd"].replace(f"stages.{stage}", "STAGE") for stage, entry in graph().items()}
    assert len(commands) == 1 and commands.pop().startswith("accelerate-launch ")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_the_imports(stage: str) -> None:
    files = {f for f in closure(ROOT, f"stages/{stage}.py") if (ROOT / f).stat().st_size}
    assert uncovered(files, deps(stage)) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_chosen_algorithm_is_covered_and_no_other(algorithm: str) -> None:
    files = {f for f in closure(ROOT, f"stages/algorithms/{algorithm}.py") if (ROOT / f).stat().st_size}
    assert uncovered(files, deps("rl", algorithm)) == []
    others = {f"stages/algorithms/{other}.py" for other in ALGORITHMS if other != algorithm}
    assert uncovered(others, deps("rl", algorithm)) == sorted(others)


@pytest.mark.parametrize("stage", FOREIGN)
def test_deps_are_no_wider_than_needed(stage: str) -> None:
    assert [path for path in FOREIGN[stage] if path in deps(stage)] == []


def test_every_dep_and_params_file_exists() -> None:
    for stage, entry in graph().items():
        for path in deps(stage):
            assert (ROOT / path).exists(), path
        for params in entry["params"]:
            if isinstance(params, dict):
                for algorithm in ALGORITHMS:
                    assert (ROOT / next(iter(params)).replace("${rl.algo}", algorithm)).is_file()


def test_what_dvc_watches_is_written_out_in_params_yaml() -> None:
    written = OmegaConf.load(ROOT / "params.yaml")
    keys = {key for stage in STAGES for algo in ALGORITHMS
            for key in dependencies(stage, compose_config([f"rl.algo={algo}"])).params}  # fmt: skip
    assert "rl.ppo" in keys and "rl.dpo.rewards" in keys
    assert [key for key in keys if OmegaConf.select(written, key, default="absent") == "absent"] == []


def test_downstream_is_the_rest_of_the_graph() -> None:
    assert downstream("rl") == ["rl", "evaluate"]
    assert downstream("prepare") == STAGES


def test_imports_are_followed_into_functions_and_packages(tmp_path: Path) -> None:
    (tmp_path / "stages" / "b").mkdir(parents=True)
    (tmp_path / "stages" / "a.py").write_text("def late():\n    from stages.b import c\n")
    (tmp_path / "stages" / "b" / "__init__.py").write_text("")
    (tmp_path / "stages" / "b" / "c.py").write_text("import stages.d\nimport os\n")
    (tmp_path / "stages" / "d.py").write_text("")
    found = closure(tmp_path, "stages/a.py")
    assert found == {"stages/a.py", "stages/b/__init__.py", "stages/b/c.py", "stages/d.py"}
    assert uncovered(found, ["stages/a.py", "stages/b"]) == ["stages/d.py"]
