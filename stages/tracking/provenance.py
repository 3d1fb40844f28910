"""Where a run comes from: its values, its commit, its inputs, and the repro or sweep that it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from stages.guard import command_line, is_dvc
from stages.tracking.redact import redact_override

GIT_TIMEOUT = 5  # seconds
MOST_HASHED = 2**30  # bytes of an input: about two seconds
PARENT = "TREELINE_PARENT"  # set by the dispatcher of a sweep: the key that its jobs share


def run_name(stage: str) -> str:
    """The stage, and what the command line changed: the name that tells the jobs of a sweep apart."""
    if not HydraConfig.initialized():
        return stage
    overrides = HydraConfig.get().overrides.task
    shown = [o for o in overrides if not o.startswith(("run.", "tracking.", "+", "~"))]
    return " ".join([stage, *map(redact_override, shown)])


def parent() -> dict[str, Any] | None:
    """The repro (its dvc process) or the sweep that this run belongs to; None for a stage run by itself."""
    if os.environ.get(PARENT):
        return {"key": os.environ[PARENT], "name": "sweep", "time": int(time.time() * 1000)}
    for process in psutil.Process().parents():
        if is_dvc(command_line(process)):
            try:
                started = process.create_time()
            except psutil.Error:  # it has just ended
                return None
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
    """The stage, the git commit and whether the tree differs from it, and the hash of each input.

    What of it cannot be found is told and left out: a damaged dvc.lock is DVC's to report.
    """
    found = {"treeline.stage": stage} | git_tags(root)
    if os.environ.get("DVC_STAGE"):
        try:
            inputs = dvc_inputs(stage, config, root)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
            line = str(error).splitlines()[0] if str(error) else ""
            print(
                f"warning: MLflow gets no hashes of inputs: {type(error).__name__}: {line}", file=sys.stderr
            )
            inputs = {}
        found |= {f"dvc.input.{path}": digest for path, digest in inputs.items()}
    return found


def git_tags(root: Path) -> dict[str, str]:
    """The commit under MLflow's own tag; nothing outside a git checkout, or where git does not answer."""

    def git(*arguments: str) -> str:
        # Without the lock that `git status` takes to refresh the index: the user's own git would fail on it.
        command = ["git", "--no-optional-locks", *arguments]
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        found = subprocess.run(command, cwd=root, check=True, timeout=GIT_TIMEOUT, **options)
        return found.stdout.strip()

    tags: dict[str, str] = {}
    try:
        tags["mlflow.source.git.commit"] = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
        tags["git.dirty"] = str(bool(changed)).lower()
    except (OSError, UnicodeError, subprocess.SubprocessError):
        pass
    return tags


def dvc_inputs(stage: str, config: DictConfig, root: Path) -> dict[str, str]:
    """The md5 of each dependency that dvc.yaml gives the stage: from dvc.lock where an earlier stage wrote it
    (DVC has just hashed it), else computed as DVC does, unless that would take long: dvc.lock has it in the end."""

    def fill(path: str) -> str:  # conf/rl/${rl.algo}.yaml
        return re.sub(r"\$\{([\w.]+)\}", lambda match: str(OmegaConf.select(config, match[1])), path)

    lock = root / "dvc.lock"
    done = (yaml.safe_load(lock.read_text()) or {}).get("stages", {}) if lock.exists() else {}
    outs = [out for entry in done.values() for out in entry.get("outs", [])]
    hashes = {out["path"]: out["md5"] for out in outs if "md5" in out}
    declared = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage].get("deps", [])
    paths = [path for path in map(fill, declared) if (root / path).exists()]
    unknown = [path for path in paths if path not in hashes and size(root / path) <= MOST_HASHED]
    return {path: hashes[path] for path in paths if path in hashes} | {
        path: md5(root / path) for path in unknown
    }


def size(path: Path) -> int:
    """Bytes of a file, or of a folder's files."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def md5(path: Path) -> str:
    """DVC's md5 of a file, or of a folder: that of its sorted listing, marked `.dir`."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    listing = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
