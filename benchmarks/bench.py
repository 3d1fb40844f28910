"""Side by side with TRL: `python -m benchmarks.bench [WORK ...]`, or `make bench WORK=dpo`.

A round is one run of ours and one of each of the peer's configs, in turn, each in a process of its own; what is
reported is the median of the rounds' ratios with their lowest and highest, so that a noisy machine hurts all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.data import CACHE, add_data_option, in_order, prepare, read_rows
from benchmarks.models import RANDOM, model_folder
from benchmarks.results import commit, results_path
from benchmarks.sides import Run, run_ours, run_peer
from benchmarks.works import CONFIGS, EMBEDDED, WARM_UP, WORKS, Work


def measure(work: Work, configs: Sequence[str], rounds: int, data: Path) -> list[dict[str, Any]]:
    """Two lines for each of the peer's configs: speed and peak memory. Our side runs once a round for all of them."""
    given = conditions(work)  # before it runs: an edit meanwhile is not what was measured
    folder = CACHE / work.folder
    rows = read_rows(work, data)
    overrides = prepare(work, rows, folder)
    ordered = in_order(work, rows, folder)
    ours: list[Run] = []
    peers: dict[str, list[Run]] = {config: [] for config in configs}
    for _ in range(rounds):
        ours.append(run_ours(work, overrides, folder))
        for config, runs in peers.items():
            runs.append(run_peer(work, ordered, config, folder))
            print(
                f"{work.name}: {ours[-1].show(work)} against {config} {runs[-1].show(work)}", file=sys.stderr
            )
    return [result for config, runs in peers.items() for result in lines(work, config, given, ours, runs)]


def lines(
    work: Work, config: str, given: dict[str, str], ours: list[Run], peers: list[Run]
) -> list[dict[str, Any]]:
    """Speed and memory: medians of both sides, the median of the rounds' ratios, and its spread. With the speed stands
    our MFU, unless nothing is trained."""
    quantities = (
        (work.name, work.unit, lambda run: run.rate(work)),
        (f"{work.name}_memory", "GiB", lambda run: run.memory),
    )
    speed, memory = (
        {"work": name, "unit": unit, "peer_version": work.peer_version, "peer_config": config}
        | given
        | summary([(value(mine), value(theirs)) for mine, theirs in zip(ours, peers, strict=True)])
        for name, unit, value in quantities
    )
    shares = [run.mfu for run in ours if run.mfu is not None]
    return [speed | ({"mfu": round(statistics.median(shares), 2)} if shares else {}), memory]


def conditions(work: Work) -> dict[str, str]:
    """What a line was measured with."""
    return {"model": work.model_name, "dtype": work.dtype, "commit": commit()}


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Of the two sides' values in each round."""
    ours, peer = (round(statistics.median(side), 3) for side in zip(*pairs, strict=True))
    ratios = [mine / theirs for mine, theirs in pairs]
    spread = [round(min(ratios), 2), round(max(ratios), 2)]
    ratio = round(statistics.median(ratios), 2)
    return {"ours": ours, "peer": peer, "ratio": ratio, "spread": spread, "rounds": len(pairs)}


def write(results: list[dict[str, Any]]) -> Path:
    """Results of this day and machine; lines measured again replace the older ones."""
    path = results_path(".json")
    lines = [*(json.loads(path.read_text()) if path.exists() else []), *results]
    kept = {(line["work"], line["peer_config"], line.get("model", EMBEDDED)): line for line in lines}
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
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs of each side")
    parser.add_argument(
        "--model", help=f"a folder, or random weights: {', '.join(RANDOM)}; none = the embedded"
    )
    parser.add_argument("--steps", type=int, help="of each run, instead of the work's own")
    add_data_option(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.works) - set(WORKS):
        parser.error(f"unknown work {', '.join(sorted(unknown))}; known are {', '.join(WORKS)}")
    if arguments.steps is not None and arguments.steps <= WARM_UP:
        parser.error(f"--steps must be above {WARM_UP}: the first {WARM_UP} warm up")
    model = model_folder(arguments.model) if arguments.model else None
    for name in arguments.works or WORKS:
        work = replace(WORKS[name], steps=arguments.steps or WORKS[name].steps, model=model)
        results = measure(work, arguments.config or list(CONFIGS), arguments.rounds, arguments.data)
        path = write(results)
        show(results)
        print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
