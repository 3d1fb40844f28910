"""Learning curves beside TRL's at equal samples: `python -m benchmarks.curves [WORK ...]`.

Both sides begin with the same weights and take the same examples in the same order at the same learning rate. Where no
sampling is in it, both are handed the same tokens, so that the curves differ by rounding alone: TRL by itself ends a
conversation after the line break that the chat template puts behind the end token, and ours ends with that token.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.data import CACHE, add_data_option, examples_in_order, in_order, prepare, read_rows
from benchmarks.results import Panel, save
from benchmarks.sides import run_ours, run_peer
from benchmarks.works import WORKS, Work
from stages.algorithms.kto import Matched
from stages.data.examples import Example

LEARNING_RATES = {
    "sft": 2.0e-5, "reward_model": 2.0e-5, "dpo": 1.0e-5, "kto": 1.0e-5, "grpo": 3.0e-5, "rloo": 3.0e-5, "ppo": 3.0e-5,
}  # fmt: skip
# What the speed does not depend on, and learning does: the same on both sides, of those that sample.
SAME = {"missing_eos_penalty": 0.0, "adam_epsilon": 1.0e-8}
# TRL's PPO clips no gradient, and trains a value model of its own as it does the policy.
OWN = {"ppo": {"max_grad_norm": 1.0e9, "value_learning_rate": LEARNING_RATES["ppo"], "max_new_tokens": 16}}
PEER_OWN = {
    "ppo": {"missing_eos_penalty": None, "response_length": 16}
}  # of the penalty the others have none
# On 16 of HH's dialogues a step, as its speed is measured, scores of samples differ by more than is learned.
OTHERWISE: dict[str, dict[str, Any]] = {
    "ppo": {"name": "ppo_sums", "data": "arithmetic", "batch": 64, "microbatch": 16}
}


def all_tokens(work: Work, examples: list[Example]) -> list[dict[str, Any]]:
    """Examples, step by step, as TRL's collator for this work takes them."""
    if work.name != "kto":
        return [tokens(work, example) for example in examples]
    return [row for example in examples if isinstance(example, Matched) for row in labelled(example)]


def labelled(example: Matched) -> list[dict[str, Any]]:
    """KTO's two rows of a pair. Both sides estimate the KL on its prompt with the same completions of another one: by
    itself TRL takes that of the row before, which may be of the same prompt."""
    prompt = example.tree.prompt.input_ids
    own, others = example.tree.completions, example.mismatched.completions
    return [
        {
            "prompt_ids": prompt,
            "completion_ids": node.input_ids,
            "KL_completion_ids": other.input_ids,
            "label": label,
        }
        for node, other, label in zip(own, others, (True, False), strict=True)
    ]


def tokens(work: Work, example: Example) -> dict[str, Any]:
    """An example as TRL's collator for this work takes it."""
    prompt, nodes = example.tree.prompt.input_ids, example.tree.completions
    if work.name == "sft":
        labels = [
            token if trained else -100
            for token, trained in zip(nodes[0].input_ids, nodes[0].loss_mask, strict=True)
        ]
        return {"input_ids": prompt + nodes[0].input_ids, "labels": [-100] * len(prompt) + labels}
    chosen, rejected = (node.input_ids for node in nodes)
    if work.name == "reward_model":
        return {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def alike(work: Work, steps: int, float32: bool) -> Work:
    """The work with what learning depends on the same on both sides."""
    return replace(
        work,
        steps=steps,
        learning_rate=LEARNING_RATES[work.name],
        settings=work.settings | (SAME if work.role == "prompt" else {}) | OWN.get(work.name, {}),
        peer=work.peer | PEER_OWN.get(work.name, {}),
        bf16=work.bf16 and not float32,
        **OTHERWISE.get(work.name, {}),
    )


def compare(work: Work, data: Path) -> dict[str, list[float]]:
    """Each side's curve: the loss, or the mean reward where the algorithm samples."""
    folder = CACHE / work.folder
    rows = read_rows(work, data)
    overrides = prepare(work, rows, folder)
    sampled = work.role == "prompt"
    same = None if sampled else all_tokens(work, examples_in_order(work, folder))
    ours = run_ours(work, overrides, folder)
    peer = run_peer(work, in_order(work, rows, folder), "tuned", folder, same)
    return {"ours": ours.curve, "TRL": peer.curve}


def record(title: str, work: Work, runs: list[dict[str, list[float]]]) -> Path:
    """Write every seed's curves as JSON and their means as a picture; returns the picture's path."""
    curves = {side: [run[side] for run in runs] for side in runs[0]}
    means = {side: [fmean(step) for step in zip(*each, strict=True)] for side, each in curves.items()}
    lines = {side: ([*range(1, len(mean) + 1)], mean) for side, mean in means.items()}
    for side, mean in means.items():
        every = ", ".join(f"{fmean(curve):.5f}" for curve in curves[side])
        print(f"{title}, {side}: step 1 {mean[0]:.5f}, mean of all steps by seed {every}", file=sys.stderr)
    return save(title, curves, [Panel("step", work.curve, lines)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", help=f"which of {', '.join(LEARNING_RATES)}; none = all")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    parser.add_argument(
        "--seeds", type=int, default=1, help="of works that sample: so many runs of each side"
    )
    parser.add_argument(
        "--float32", action="store_true", help="on both sides: what differs is not bf16's rounding"
    )
    add_data_option(parser)
    arguments = parser.parse_args()
    if unknown := set(arguments.works) - set(LEARNING_RATES):
        parser.error(f"unknown work {', '.join(sorted(unknown))}; known are {', '.join(LEARNING_RATES)}")
    for name in arguments.works or LEARNING_RATES:
        work = alike(WORKS[name], arguments.steps, arguments.float32)
        seeds = range(arguments.seeds) if work.role == "prompt" else (0,)  # elsewhere nothing is drawn
        runs = [compare(replace(work, seed=seed), arguments.data) for seed in seeds]
        title = f"curve-{name}-float32" if arguments.float32 else f"curve-{name}"
        print(f"written to {record(title, work, runs)}", file=sys.stderr)


if __name__ == "__main__":
    main()
