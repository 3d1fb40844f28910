"""Peak memory of PPO on one backbone beside SFT with LoRA on as many tokens: `python -m benchmarks.backbone`.

Both are ours, on the same dialogues of HH. SFT's completions are the first 32 tokens of their answers; PPO samples as
many at most, and takes a batch in one minibatch, as SFT does.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from benchmarks.bench import conditions, show, summary, write
from benchmarks.data import CACHE, add_data_option, prepare, read_rows
from benchmarks.sides import run_ours
from benchmarks.works import PPO, WORKS, Work
from stages.data.embedded import load_embedded_tokenizer

STEPS = 3
NAME = "one_backbone"


def works() -> tuple[Work, Work]:
    """PPO with policy, reference, value and reward on one backbone; SFT of the same adapters."""
    ppo = replace(WORKS["ppo_lora"], name=NAME, steps=STEPS, settings=PPO | {"num_mini_batches": 1})
    return ppo, Work(
        NAME, "sft", "rows/s", "hh", "sft", batch=ppo.batch, overrides=ppo.overrides, steps=STEPS
    )


def shortened(row: dict[str, Any], tokenizer: Any, tokens: int) -> dict[str, Any]:
    """A pair whose answers end after so many tokens."""
    cut = {}
    for side in ("chosen", "rejected"):
        (answer,) = row[side]
        ids = tokenizer(answer["content"], add_special_tokens=False)["input_ids"][:tokens]
        cut[side] = [answer | {"content": tokenizer.decode(ids)}]
    return row | cut


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="alternating runs of each")
    add_data_option(parser)
    arguments = parser.parse_args()
    ppo, sft = works()
    tokenizer = load_embedded_tokenizer()
    rows = [shortened(row, tokenizer, PPO["max_new_tokens"]) for row in read_rows(ppo, arguments.data)]
    folder = CACHE / NAME
    overrides = prepare(ppo, rows, folder)
    given = conditions(ppo)
    pairs: list[tuple[float, float]] = []
    for _ in range(arguments.rounds):
        mine, theirs = (run_ours(work, overrides, folder).memory for work in (ppo, sft))
        print(f"PPO {mine:.2f} GiB, SFT {theirs:.2f} GiB", file=sys.stderr)
        pairs.append((mine, theirs))
    peer = {"peer_version": "SFT with LoRA on as many tokens", "peer_config": "sft_lora"}
    result = {"work": f"{NAME}_memory", "unit": "GiB"} | peer | given | summary(pairs)
    show([result])
    print(f"written to {write([result])}", file=sys.stderr)


if __name__ == "__main__":
    main()
