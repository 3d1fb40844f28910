"""Where a run comes from: its values, its commit, its inputs, and the repro or sweep that it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from stages.guard import command_line, is_dvc

PARENT = "TREELINE_PARENT"  # set by the dispatcher of a sweep: the key that its jobs share


def run_name(stage: str) -> str:
    """The stage, and what the command line changed: the name that tells the jobs of a sweep apart."""
    if not HydraConfig.initialized():
        return stage
    overrides = HydraConfig.get().overrides.task
    return " ".join([stage, *(o for o in overrides if not o.startswith(("run.", "tracking.", "+", "~")))])


def parent() -> dict[str, Any] | None:
    """The repro (its dvc process) or the sweep that this run belongs to; None for a stage run by itself."""
    if os.environ.get(PARENT):
        return {"key": os.environ[PARENT], "name": "sweep", "time": int(time.time() * 1000)}
    for process in psutil.Process().parents():
        if is_dvc(command_line(process)):
            started = process.create_time()
            name = os.environ.get("DVC_EXP_NAME") or "repro"
            # The process id alone comes round again; with its start time it is unique.
            return {"key": f"dvc-{process.pid}-{started:.2f}", "name": name, "time": int(started * 1000)}
    return None


def params(config: DictConfig) -> dict[str, str]:
    """Every value of the config under its dotted name, as MLflow takes them: text."""
    flat: dict[str, str] = {}

    def visit(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                visit(f"{prefix}.{key}" if prefix else str(key), value)
        else:
            flat[prefix] = str(node)

    visit("", OmegaConf.to_container(config, resolve=True))
    return flat


def tags(stage: str, config: DictConfig, root: Path) -> dict[str, str]:
    """The stage, the git commit and whether the tree differs from it, and the hash of each input."""
    found = {"treeline.stage": stage} | git_tags(root)
    if os.environ.get("DVC_STAGE"):
        found |= {f"dvc.input.{path}": digest for path, digest in dvc_inputs(stage, config, root).items()}
    return found


def git_tags(root: Path) -> dict[str, str]:
    """The commit under MLflow's own tag; nothing outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changed)).lower()}


def dvc_inputs(stage: str, config: DictConfig, root: Path) -> dict[str, str]:
    """The md5 of each dependency that dvc.yaml gives the stage: from dvc.lock where an earlier stage wrote it
    (DVC has just hashed it), else computed as DVC does."""

    def fill(path: str) -> str:  # conf/rl/${rl.algo}.yaml
        return re.sub(r"\$\{([\w.]+)\}", lambda match: str(OmegaConf.select(config, match[1])), path)

    lock = root / "dvc.lock"
    done = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    outs = [out for entry in done.values() for out in entry.get("outs", [])]
    hashes = {out["path"]: out["md5"] for out in outs if "md5" in out}
    declared = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage].get("deps", [])
    paths = [path for path in map(fill, declared) if (root / path).exists()]
    return {path: hashes.get(path) or md5(root / path) for path in paths}


def md5(path: Path) -> str:
    """DVC's md5 of a file, or of a folder: that of its sorted listing, marked `.dir`."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    listing = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
