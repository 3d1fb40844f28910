"""Side by side with TRL: `python -m benchmarks.bench [WORK ...]`, or `make bench WORK=dpo`.

Each line is one alternating run, ours and the peer's in turn, each in a process of its own; what is reported is the
median of the paired ratios with their lowest and highest, so that a noisy machine hurts both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data import in_order, prepare, read_rows
from benchmarks.sides import Run, run_ours, run_peer
from benchmarks.works import DEFAULT, TUNED, WORKS, Work

HERE = Path(__file__).resolve().parent
CONFIGS = {"tuned": TUNED, "default": DEFAULT}


def measure(work: Work, config: str, pairs: int, data: Path) -> list[dict[str, Any]]:
    """Two lines: speed and peak memory."""
    folder = HERE / ".cache" / work.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(work, data)
    overrides = prepare(work, rows, folder)
    ordered = in_order(work, rows, folder)
    ours, peers = [], []
    for _ in range(pairs):
        ours.append(run_ours(work, overrides, folder))
        peers.append(run_peer(work, ordered, CONFIGS[config], folder))
        print(f"{work.name}, {config}: {ours[-1].show(work)} against {peers[-1].show(work)}", file=sys.stderr)
    speed = line(work, work.name, work.unit, config, ours, peers, lambda run: run.rate(work))
    memory = line(work, f"{work.name}_memory", "GiB", config, ours, peers, lambda run: run.memory)
    return [speed, memory]


def line(
    work: Work,
    name: str,
    unit: str,
    config: str,
    ours: list[Run],
    peers: list[Run],
    value: Callable[[Run], float],
) -> dict[str, Any]:
    """One result: medians of both sides, the median ratio, and its spread."""
    pairs = [(value(mine), value(theirs)) for mine, theirs in zip(ours, peers, strict=True)]
    ratios = [mine / theirs for mine, theirs in pairs]
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "work": name, "unit": unit, "ours": round(mine, 3), "peer": round(theirs, 3), "peer_version": work.peer_version,
        "peer_config": config, "ratio": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }  # fmt: skip


def hardware() -> str:
    """A short name of this machine for the file of results."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().replace(" ", "-")
    return f"{len(os.sched_getaffinity(0))}-core-{platform.machine()}"


def write(results: list[dict[str, Any]]) -> Path:
    """Results of this day and machine; lines measured again replace the older ones."""
    path = HERE / "results" / f"{date.today()}-{hardware()}.json"
    path.parent.mkdir(exist_ok=True)
    kept = {(r["work"], r["peer_config"]): r for r in (json.loads(path.read_text()) if path.exists() else [])}
    kept |= {(result["work"], result["peer_config"]): result for result in results}
    path.write_text(json.dumps(list(kept.values()), indent=1) + "\n")
    return path


def show(results: list[dict[str, Any]]) -> None:
    table = Table("work", "unit", "ours", "peer", "config", "ratio", "lowest", "highest")
    for result in results:
        names = ("work", "unit", "ours", "peer", "peer_config", "ratio")
        table.add_row(*(str(result[name]) for name in names), *map(str, result["spread"]))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", help=f"which of {', '.join(WORKS)}; none = all")
    parser.add_argument("--config", choices=CONFIGS, action="append", help="the peer's; none = both")
    parser.add_argument("--pairs", type=int, default=3, help="alternating runs of each side")
    parser.add_argument("--data", type=Path, default=HERE / ".cache" / "data", help="the folder of hh.jsonl")
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    if unknown := set(arguments.works) - set(WORKS):
        parser.error(f"unknown work {', '.join(sorted(unknown))}; known are {', '.join(WORKS)}")
    for name in arguments.works or WORKS:
        for config in arguments.config or CONFIGS:
            results = measure(WORKS[name], config, arguments.pairs, arguments.data)
            path = write(results)
            show(results)
            print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
