"""How cost grows: `python -m benchmarks.scaling length|group|size`, ours beside transformers' padded rows.

length: sequences of 64 to 2048 tokens, as many as make up `--tokens`. group: a prompt of 256 tokens with 1 to 16
completions of 64, sixteen completions in all. size: models of 1 to 135 million parameters, with `--large` also Qwen3's
0.6 and 1.7 billion. Weights and tokens are random, half of a sequence is its prompt, the precision is bf16
autocast where the hardware has it.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from benchmarks.models import RANDOM, SMOLLM2, llama
from benchmarks.point import SIDES, Shape, measure
from benchmarks.results import Panel, save
from stages.heap import mimalloc_environment

QUANTITIES = {"tokens_per_second": "tokens/s", "memory_gib": "peak memory, GiB", "mfu": "MFU"}
COMPLETIONS = 16


SMALL = [llama(96, 4, 4, 4, 8192), llama(256, 10, 4, 4, 8192), llama(512, 11, 8, 8, 16384), SMOLLM2]
LARGE = [RANDOM["qwen3-0.6b"], RANDOM["qwen3-1.7b"]]


def length(tokens: int, _large: bool) -> list[tuple[int, Shape]]:
    lengths = [64, 128, 256, 512, 1024, 2048]
    return [(n, Shape(SMOLLM2, max(1, tokens // n), n // 2, n // 2)) for n in lengths]


def group(_tokens: int, _large: bool) -> list[tuple[int, Shape]]:
    return [(n, Shape(SMOLLM2, COMPLETIONS // n, 256, 64, group=n)) for n in (1, 2, 4, 8, 16)]


def size(tokens: int, large: bool) -> list[tuple[int, Shape]]:
    models = SMALL + (LARGE if large else [])
    return [(index, Shape(model, max(1, tokens // 256), 128, 128)) for index, model in enumerate(models)]


EXPERIMENTS = {
    "length": (length, "tokens of a sequence"),
    "group": (group, "completions of a prompt"),
    "size": (size, "parameters"),  # counted when the model is there
}


def panels(rows: list[dict[str, Any]], x: str) -> list[Panel]:
    """One diagram for each quantity."""

    def line(side: str, quantity: str) -> tuple[list[float], list[float]]:
        own = [row for row in rows if row["side"] == side]
        return [row[x] for row in own], [row[quantity] for row in own]

    return [
        Panel(x, name, {side: line(side, quantity) for side in SIDES}, log_x=True)
        for quantity, name in QUANTITIES.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--tokens", type=int, default=4096, help="of a pass, for length and size")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each point")
    parser.add_argument("--large", action="store_true", help="size: also 0.6B and 1.7B, for a GPU")
    arguments = parser.parse_args()
    # Both sides have the allocator that our stages start with; a process must begin with it.
    os.environ |= mimalloc_environment() | os.environ
    points, x = EXPERIMENTS[arguments.experiment]
    rows = []
    for value, shape in points(arguments.tokens, arguments.large):
        for side, found in measure(shape, arguments.repeats).items():
            rows.append({x: value, "side": side} | found)
            print(rows[-1], file=sys.stderr)
    print(f"drawn in {save(f'scaling-{arguments.experiment}', rows, panels(rows, x))}", file=sys.stderr)


if __name__ == "__main__":
    main()
