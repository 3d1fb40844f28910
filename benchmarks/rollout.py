"""Sampling alone: the sampler, or transformers' `generate`, on the same prompts with the same bf16 weights."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.works import WARM_UP
from stages.data.examples import read_examples
from stages.machine import keep_freed_memory, use_all_cores
from stages.models.load import load_model
from stages.rollout.sampler import Sampler

GENERATIONS, NEW_TOKENS, PROMPTS, ROUNDS = 8, 32, 4, 6
Prompts = list[list[int]]


def with_sampler(folder: Path, stops: list[int]) -> Callable[[Prompts], int]:
    keep_freed_memory()
    sampler = Sampler(load_model(folder), stops, dtype=torch.bfloat16)

    def sample(prompts: Prompts) -> int:
        rollouts = sampler.sample(prompts, GENERATIONS, NEW_TOKENS, 1.0)
        return sum(len(node.input_ids) for rollout in rollouts for node in rollout.tree.completions)

    return sample


def with_generate(folder: Path, stops: list[int]) -> Callable[[Prompts], int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    pad = AutoTokenizer.from_pretrained(folder).pad_token_id

    def sample(prompts: Prompts) -> int:
        width = max(map(len, prompts))
        rows = [prompt for prompt in prompts for _ in range(GENERATIONS)]
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        found = model.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=NEW_TOKENS, eos_token_id=stops,
            pad_token_id=pad,
        )  # fmt: skip
        new = found[:, width:]  # tokens of a row up to its end, as TRL counts them
        ended = torch.isin(new, torch.tensor(stops)).int().cumsum(1)
        return int(((ended == 0) | ((ended == 1) & torch.isin(new, torch.tensor(stops)))).sum())

    return sample


def main() -> None:
    side, folder = sys.argv[1], Path(sys.argv[2])
    use_all_cores()
    stops = json.loads((folder / "prepare" / "model.json").read_text())["stop_token_ids"]
    examples = read_examples(folder / "prepare" / "prompt.jsonl")
    prompts = [example.tree.prompt.input_ids for example in examples]
    sample = (with_sampler if side == "ours" else with_generate)(folder / "prepare" / "model", stops)
    seconds, tokens = [], []
    for step in range(ROUNDS):
        torch.manual_seed(step)
        began = time.perf_counter()
        tokens.append(sample(prompts[step * PROMPTS : (step + 1) * PROMPTS]))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "tokens": sum(tokens[WARM_UP:])}))


if __name__ == "__main__":
    main()
