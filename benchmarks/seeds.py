"""README's table of seeds, and its picture: `python -m benchmarks.seeds`.

params.yaml as it is, run once for each seed and algorithm, stage by stage as a user starts them by hand. What is there
already, of the same commit, is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.data import CACHE
from benchmarks.results import Panel, commit, draw
from stages.config.compose import ROOT
from stages.tracking.curves import read_curves
from stages.tracking.start import CURVES

SHARED = ("prepare", "sft")  # by the algorithms of a seed
OWN = ("reward_model", "rl", "evaluate")
TITLES = {"ppo": "PPO, learned reward model", "grpo": "GRPO, verifier", "dpo": "DPO, ranked samples"}
PICTURE = ROOT / "docs" / "images" / "seeds.png"


def run(seed: int, algorithm: str) -> dict[str, Path]:
    """The output of each stage."""
    folder = CACHE / "seeds" / commit() / str(seed)
    outputs = {stage: folder / stage for stage in SHARED}
    outputs |= {stage: folder / algorithm / stage for stage in OWN}
    inputs = [f"+run.inputs.{stage}={path}" for stage, path in outputs.items()]
    for stage, output in outputs.items():
        if not output.exists():
            print(f"seed {seed}, {algorithm}: {stage}", file=sys.stderr)
            command = [sys.executable, "-m", f"stages.{stage}", f"seed={seed}", f"rl.algo={algorithm}"]
            command += [*inputs, "tracking.enabled=false", f"hydra.run.dir={output.parent}"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return outputs


def cell(metrics: dict[str, Any]) -> str:
    """Gold accuracy, and in brackets what is gained over sft, in points, with its interval."""
    gain = metrics["paired"]["rl_minus_sft"]
    mean, low, high = (f"{100 * gain[key]:.1f}" for key in ("mean", "low", "high"))
    return f"{accuracy(metrics, 'rl')} ({'' if mean.startswith('-') else '+'}{mean}: {low} to {high})"


def accuracy(metrics: dict[str, Any], model: str) -> str:
    return f"{100 * metrics[model]['gold_accuracy']['mean']:.1f} %"


def row(seed: int, by_algorithm: dict[str, dict[str, Path]]) -> str:
    """One of README's, in Markdown."""
    found = [json.loads((paths["evaluate"] / "metrics.json").read_text()) for paths in by_algorithm.values()]
    return f"| {seed} | {accuracy(found[0], 'sft')} | {' | '.join(map(cell, found))} |"


def panel(algorithm: str, runs: dict[int, dict[str, dict[str, Path]]]) -> Panel:
    """Gold accuracy while it trains, a line for each seed."""
    lines = {}
    for seed, by_algorithm in runs.items():
        points = read_curves(by_algorithm[algorithm]["rl"] / CURVES)["eval/gold_accuracy"]
        steps, values = zip(*points, strict=True)
        lines[f"seed {seed}"] = (steps, values)
    return Panel(f"step of {TITLES[algorithm]}", "gold accuracy, held-out prompts", lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    seeds = range(parser.parse_args().seeds)
    runs = {seed: {algorithm: run(seed, algorithm) for algorithm in TITLES} for seed in seeds}
    print(f"| seed | sft | {' | '.join(TITLES.values())} |\n|---|---|{'---|' * len(TITLES)}")
    print("\n".join(row(seed, by_algorithm) for seed, by_algorithm in runs.items()))
    draw(
        [panel(algorithm, runs) for algorithm in TITLES],
        f"Default run at {commit()}: gold accuracy while rl trains",
        PICTURE,
    )


if __name__ == "__main__":
    main()
