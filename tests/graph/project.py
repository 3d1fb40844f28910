"""A copy of the project on a model of a few weights, driven from outside as a user drives it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf

from tests.data.tiny import save_tiny_model, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["prepare", "sft", "reward_model", "rl", "evaluate"]
# A test run from inside a stage, or with a user's settings, must not hand them down.
FOREIGN = (
    "DVC_",
    "TREELINE_",
    "MLFLOW_",
    "HYDRA_",
    "ACCELERATE_",
    "PROJECT_ROOT",
    "RANK",
    "WORLD_SIZE",
    "GIT_",
)
IDENTITY = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"]

# Without patience: tests count the steps.
SMALL = {
    "bf16": False,
    "max_steps": 8,
    "batch_size": 4,
    "learning_rate": 1.0e-3,
    "early_stopping_patience": None,
}
ONLINE = {**SMALL, "num_generations": 2, "max_new_tokens": 4, "eval_steps": 2}
PARAMS: dict[str, Any] = {
    "seed": 0,
    "model": {"path": None, "revision": None, "lora": False},
    "data": {
        **{
            role: {"source": "files", "path": "data/raw", "size": None}
            for role in ("sft", "preference", "prompt")
        },
        "test_size": 4,
        "validation_size": 4,
        "verifier": "tests.graph.rewards:even",
    },
    "sft": SMALL,
    "reward_model": {**SMALL, "weight_decay": 0.0},
    "rl": {
        "algo": "ppo",
        "ppo": {**ONLINE, "kl_coef": 0.02, "num_ppo_epochs": 2, "rewards": {"reward_model": 1.0}},
        "grpo": {**ONLINE, "beta": 0.02, "rewards": {"tests.graph.rewards:odd_share": 1.0}},
        "dpo": {**SMALL, "beta": 0.1, "rewards": {}},
    },
    "run": {"save_steps": 2},
    # nobody waits for MLflow here: test_mlflow.py looks when everything is delivered
    "tracking": {"finish_timeout": 0},
    "evaluate": {"bf16": False, "max_new_tokens": 4, "bootstrap_samples": 100},
}


@dataclass(frozen=True)
class Project:
    """A checkout of its own at `root`, with a git repository, a model and data."""

    root: Path

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return kept | {
            # dvc.yaml says `accelerate-launch`: it must be the one beside this interpreter
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            # models of a few weights are slower on two threads, far slower when two of them share two cores
            "TREELINE_THREADS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "site-cache"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.root.parent / "dvc-config"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{
                f"GIT_{who}_{what}": "tests@example.org"
                for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")
            },
            **extra,
        }

    def start(self, *command: str, start_new_session: bool = False, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=start_new_session,
        )

    def run(self, *command: str, code: int = 0, **extra: str) -> str:
        """The output of a command that is to end with `code`."""
        process = self.start(*command, start_new_session=True, **extra)
        try:
            output, _ = process.communicate()
        except BaseException:  # the test's time is up
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == code, f"{' '.join(command)} ended with {process.returncode}:\n{output}"
        return output

    def python(self, *arguments: str, code: int = 0, **extra: str) -> str:
        return self.run(sys.executable, *arguments, code=code, **extra)

    def dvc(self, *arguments: str, code: int = 0, **extra: str) -> str:
        return self.python("-m", "dvc", *arguments, code=code, **extra)

    def repro(self, *arguments: str, **extra: str) -> list[str]:
        """The stages that `dvc repro` trained, in order; those that came from the run-cache are not among them."""
        return re.findall(r"Running stage '(\w+)'", self.dvc("repro", *arguments, **extra))

    def stale(self) -> list[str]:
        """The stages that DVC finds changed by themselves, not through the stages before them."""
        return [stage for stage in STAGES if stage in self.status()]

    def status(self) -> dict[str, Any]:
        return json.loads(self.dvc("status", "--json"))

    def set(self, **values: Any) -> None:
        """Edit params.yaml; a key's dots are written as two underscores."""
        params = OmegaConf.load(self.root / "params.yaml")
        for key, value in values.items():
            OmegaConf.update(params, key.replace("__", "."), value)
        OmegaConf.save(params, self.root / "params.yaml")

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "The state of a test")

    def client(self) -> MlflowClient:
        """A client of this project's MLflow, once every stage's sender has delivered what its stage logged."""
        deadline = time.monotonic() + 90
        while list((self.root / ".spool").glob("[!.]*/")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not list((self.root / ".spool").glob("[!.]*/")), "not everything was delivered to MLflow"
        return MlflowClient(f"sqlite:///{self.root / 'mlflow.db'}")

    def runs(self) -> list[Run]:
        client = self.client()
        return list(
            client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        )

    def history(self, run: str, metric: str) -> list[float]:
        return [point.value for point in self.client().get_metric_history(run, metric)]

    def artifacts(self, run: str) -> list[str]:
        return [file.path for file in self.client().list_artifacts(run)]

    def metrics(self, stage: str) -> dict[str, Any]:
        return json.loads((self.root / "data" / stage / "metrics.json").read_text())

    def copy(self, folder: Path) -> Project:
        """The whole project with its outputs, caches and history, to change at will."""
        shutil.copytree(self.root, folder / "project", symlinks=True)
        return Project(folder / "project")


def make_project(folder: Path) -> Project:
    """What git tracks here, or would, as a project of its own, with data and a params.yaml for a tiny model."""
    root = folder / "project"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    (root / "dvc.lock").unlink(missing_ok=True)
    model = save_tiny_model(folder / "model")
    write_jsonl(root / "data" / "raw" / "pairs.jsonl", rows())
    OmegaConf.save(
        OmegaConf.create({**PARAMS, "model": {**PARAMS["model"], "path": str(model)}}), root / "params.yaml"
    )
    project = Project(root)
    project.git("init", "--quiet")
    project.commit()
    return project


def rows() -> list[dict[str, str]]:
    return [
        {"prompt": f"{n} + {n} =", "chosen": f"{2 * n}", "rejected": f"{2 * n + 1}", "answer": f"{2 * n}"}
        for n in range(24)
    ]
