"""The shipped run over seeds and algorithms: `python -m benchmarks.seeds [--seeds 0 1 2] [--algorithms ppo grpo dpo]`.

A clone of HEAD runs `dvc repro` stage by stage, as a user would, with `seed` and `rl.algo` changed and nothing else.
Of each run this keeps what evaluate found, the curve of held-out gold accuracy, and the seconds of each stage that had
to run: sft is trained once per seed. A run that the file of results has at this commit is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import Panel, commit, draw, results_path
from stages.tracking.curves import read_curves
from stages.tracking.start import CURVES
from stages.training.answers import GOLD
from stages.workspace import SELECTION

ROOT = Path(__file__).resolve().parents[1]
CLONE = ROOT / "benchmarks" / ".cache" / "seeds"
STAGES = ("prepare", "sft", "reward_model", "rl", "evaluate")
PICTURE = ROOT / "docs" / "images" / "seeds.png"
TITLES = {"ppo": "PPO, learned reward model", "grpo": "GRPO, verifier", "dpo": "DPO, ranked samples"}


def clone() -> None:
    """HEAD anew, without what an earlier clone computed: its seconds are part of the result."""
    shutil.rmtree(CLONE, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(CLONE)], check=True)


def choose(seed: int, algorithm: str) -> None:
    """Change two lines of the clone's params.yaml. Raises ValueError where they are not there."""
    path = CLONE / "params.yaml"
    text = path.read_text()
    for pattern, line in ((r"^seed: \d+", f"seed: {seed}"), (r"^  algo: \w+", f"  algo: {algorithm}")):
        text, count = re.subn(pattern, line, text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"params.yaml has {count} lines like '{line}'")
    path.write_text(text)


def repro() -> dict[str, float]:
    """Seconds of each stage that had to run. Raises CalledProcessError where one fails."""
    seconds = {}
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    for stage in STAGES:
        start = time.monotonic()
        command = ["dvc", "repro", "--single-item", stage]
        done = subprocess.run(
            command, cwd=CLONE, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        if f"Running stage '{stage}'" in done.stdout:
            seconds[stage] = round(time.monotonic() - start, 1)
    return seconds


def outcome(seconds: dict[str, float]) -> dict[str, Any]:
    """What the run that lies in the clone came to."""
    data = CLONE / "data"
    metrics = json.loads((data / "evaluate" / "metrics.json").read_text())
    return {
        "seconds": seconds,
        "metrics": {
            name: metrics[name] for name in ("sft", "rl", "paired", "paired_reward") if name in metrics
        },
        "curve": read_curves(data / "rl" / CURVES)[GOLD.metric],
        "selection": json.loads((data / "rl" / SELECTION).read_text()),
    }


def cell(run: dict[str, Any]) -> str:
    """`66.5 % (+19.0: 12.5 to 25.5)`: rl's gold accuracy, and what it gains over sft with the paired interval."""
    gain = run["metrics"]["paired"]["rl_minus_sft"]
    points = [round(100 * gain[key], 1) for key in ("mean", "low", "high")]
    return f"{_share(run, 'rl')} ({points[0]:+.1f}: {points[1]:.1f} to {points[2]:.1f})"


def table(runs: dict[str, Any], seeds: list[int], algorithms: list[str]) -> str:
    """Rows of Markdown, a seed each; sft is the same for all algorithms of a seed."""
    lines = ["| seed | sft | " + " | ".join(TITLES.get(each, each) for each in algorithms) + " |"]
    lines.append("|---" * (len(algorithms) + 2) + "|")
    for seed in seeds:
        own = [runs[f"{each}-{seed}"] for each in algorithms]
        lines.append(f"| {seed} | {_share(own[0], 'sft')} | " + " | ".join(map(cell, own)) + " |")
    return "\n".join(lines)


def _share(run: dict[str, Any], model: str) -> str:
    return f"{100 * run['metrics'][model]['gold_accuracy']['mean']:.1f} %"


def picture(runs: dict[str, Any], seeds: list[int], algorithms: list[str]) -> None:
    panels = []
    for each in algorithms:
        curves = {f"seed {seed}": zip(*runs[f"{each}-{seed}"]["curve"], strict=True) for seed in seeds}
        lines = {
            name: (tuple(steps), [100 * share for share in shares])
            for name, (steps, shares) in curves.items()
        }
        panels.append(Panel(f"{TITLES.get(each, each)}: step", "gold accuracy, held-out prompts, %", lines))
    draw(panels, "", PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--algorithms", nargs="+", default=list(TITLES))
    arguments = parser.parse_args()
    path, found = results_path("-seeds.json"), {"commit": commit(), "runs": {}}
    if path.exists() and (older := json.loads(path.read_text()))["commit"] == found["commit"]:
        found = older
    clone()
    for seed in arguments.seeds:
        for algorithm in arguments.algorithms:
            if (name := f"{algorithm}-{seed}") in found["runs"]:
                continue
            choose(seed, algorithm)
            found["runs"][name] = outcome(repro())
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{name}: {cell(found['runs'][name])}, {found['runs'][name]['seconds']}", file=sys.stderr)
    print(table(found["runs"], arguments.seeds, arguments.algorithms))
    picture(found["runs"], arguments.seeds, arguments.algorithms)


if __name__ == "__main__":
    main()
