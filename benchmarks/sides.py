"""One run of either side, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.works import ENVIRONMENTS, OURS, WARM_UP, Work
from stages.heap import CHOICES
from stages.tracking.curves import read_curves
from stages.tracking.start import CURVES, TIMINGS
from stages.workspace import REFERENCES

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-bench"
THREADS = ("OMP_NUM_THREADS", "TREELINE_THREADS")  # both sides take every core


@dataclass(frozen=True)
class Run:
    """Seconds of each step, and the peak in GiB of resident memory, or of the GPU's where there is one. `units` where
    they are not the same every step; `curve` is the loss of each step, or its mean reward where the algorithm samples;
    `mfu` is our `perf/mfu` of the steps that count.
    """

    seconds: list[float]
    memory: float
    units: float | None = None
    curve: list[float] = field(default_factory=list)
    mfu: float | None = None

    def rate(self, work: Work) -> float:
        """Units per second, without the steps that warm up."""
        counted = self.seconds[WARM_UP:]
        units = self.units if self.units is not None else work.batch * work.units_per_example * len(counted)
        return units / sum(counted)

    def show(self, work: Work) -> str:
        return f"{self.rate(work):.2f} {work.unit}, {self.memory:.1f} GiB"


def run_ours(work: Work, overrides: list[str], folder: Path) -> Run:
    """The stage as a user runs it by hand; its seconds come from its own curves.

    The reference of dpo and kto is computed before the first step: its seconds are shared out over the steps.
    """
    if work.stage == "rollout":
        return _run_rollout("ours", work, folder, ENVIRONMENTS["tuned"])
    output = folder / "ours"
    section = f"rl.{work.algorithm}" if work.algorithm else work.stage
    values = OURS | {"learning_rate": work.learning_rate, "max_steps": work.steps, "batch_size": work.batch}
    values |= {"bf16": work.bf16, "max_eval_samples": 1, "eval_steps": 0}
    values |= {"keep": "last"} | work.settings  # the peer keeps its last step, too
    own = [f"{section}.{key}={_hydra(value)}" for key, value in values.items()]
    chosen = [f"rl.algo={work.algorithm}"] if work.algorithm else ["rl.algo=ppo"]
    command = [
        sys.executable,
        "-m",
        f"stages.{work.stage}",
        *overrides,
        *chosen,
        *own,
        *work.overrides,
        f"hydra.run.dir={output}",
    ]
    with _reference_computed_anew():
        printed, memory = _run(command, {})
    if slower := [
        line for line in printed.splitlines() if "slower" in line
    ]:  # as each fall-back says in the log
        raise RuntimeError(f"{work.name}, our side: {slower[0]}")
    timings = read_curves(ROOT / TIMINGS.format(stage=work.stage))
    curves = read_curves(output / work.stage / CURVES)
    reference = sum(value for _, value in timings.get("perf/reference_seconds", [])) / work.steps
    seconds = [value + reference for _, value in timings["perf/step_seconds"]]
    if torch.cuda.is_available():
        memory = max(value for _, value in timings["perf/peak_memory_gib"])
    mfu = fmean(value for _, value in timings["perf/mfu"][WARM_UP:])
    return Run(seconds, memory, curve=[value for _, value in curves[work.curve]], mfu=mfu)


@contextmanager
def _reference_computed_anew() -> Iterator[None]:
    """As a user's first run computes it: what others keep of references is set aside."""
    aside = REFERENCES.with_name("reference-aside")
    if aside.exists():  # a run that was killed left what it had computed
        shutil.rmtree(REFERENCES, ignore_errors=True)
    elif REFERENCES.exists():
        REFERENCES.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(REFERENCES, ignore_errors=True)
        if aside.exists():
            aside.rename(REFERENCES)


def run_peer(
    work: Work,
    rows: list[dict[str, Any]],
    config: str,
    folder: Path,
    tokens: list[dict[str, Any]] | None = None,
) -> Run:
    """TRL's trainer on the same rows in the same order; `config` is tuned or default. `tokens` takes the place of what
    it makes of the rows."""
    if work.stage == "rollout":
        return _run_rollout("generate", work, folder, ENVIRONMENTS[config])
    job = {
        "work": work.name, "rows": rows, "model": str(folder / "sft" / "model"),
        "reward_model": str(folder / "reward_model" / "merged"), "batch": work.batch, "steps": work.steps,
        "learning_rate": work.learning_rate, "output": str(folder / "peer"), "config": work.peer_config(config),
        "tokens": tokens, "bf16": work.bf16, "seed": work.seed,
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    python = PEERS / work.peer_environment / "bin" / "python"
    printed, memory = _run(
        [str(python), str(ROOT / "benchmarks" / work.peer_script), str(path)], ENVIRONMENTS[config]
    )
    told = json.loads(printed.splitlines()[-1])
    return Run(told["seconds"], told["device_memory"] or memory, curve=told["curve"])


def _run_rollout(side: str, work: Work, folder: Path, environment: dict[str, str]) -> Run:
    job = work.settings | {"batch": work.batch, "steps": work.steps, "dtype": work.dtype}
    job |= {"folder": str(folder)}
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    printed, memory = _run([sys.executable, "-m", "benchmarks.rollout", side, str(path)], environment)
    told = json.loads(printed.splitlines()[-1])
    return Run(told["seconds"], told["device_memory"] or memory, told["tokens"])


def _run(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Its output, and the peak memory of its process in GiB. Raises RuntimeError with its last words where it fails."""
    plain = {name: value for name, value in os.environ.items() if name not in (*CHOICES, *THREADS)}
    environment = plain | {"TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)} | environment
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=printed, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        printed.seek(0)
        errors.seek(0)
        if status:
            raise RuntimeError(f"{' '.join(command[:4])} failed:\n{errors.read()[-3000:]}")
        return printed.read(), usage.ru_maxrss / 2**20


def _hydra(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
