"""Sampling alone: the sampler, or transformers' `generate`, on the same prompts with the same weights and precision.

Run as `python -m benchmarks.rollout ours|generate <job.json>`. A job holds the folder of the prepared data, how many
prompts a step takes and how many steps there are, the precision, how many completions of a prompt, and of how many
tokens at most.
"""

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
from stages.machine import use_all_cores
from stages.models.load import load_model
from stages.rollout.sampler import Sampler

Prompts = list[list[int]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def with_sampler(
    folder: Path, dtype: torch.dtype, stops: list[int], group: int, new_tokens: int
) -> Callable[[Prompts], int]:
    model: Any = load_model(folder)
    sampler = Sampler(model.to(DEVICE), stops, dtype=dtype)

    def sample(prompts: Prompts) -> int:
        rollouts = sampler.sample(prompts, group, new_tokens, 1.0)
        return sum(len(node.input_ids) for rollout in rollouts for node in rollout.tree.completions)

    return sample


def with_generate(
    folder: Path, dtype: torch.dtype, stops: list[int], group: int, new_tokens: int
) -> Callable[[Prompts], int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.to(DEVICE).eval()
    pad = AutoTokenizer.from_pretrained(folder).pad_token_id

    def sample(prompts: Prompts) -> int:
        width = max(map(len, prompts))
        rows = [prompt for prompt in prompts for _ in range(group)]
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=DEVICE)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=DEVICE)
        found = model.generate(
            ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=new_tokens, eos_token_id=stops,
            pad_token_id=pad,
        )  # fmt: skip
        new = found[:, width:]  # tokens of a row up to its end, as TRL counts them
        stop = torch.isin(new, torch.tensor(stops, device=DEVICE))
        ended = stop.int().cumsum(1)
        return int(((ended == 0) | ((ended == 1) & stop)).sum())

    return sample


def main() -> None:
    side, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    folder, batch = Path(job["folder"]), job["batch"]
    use_all_cores()
    stops = json.loads((folder / "prepare" / "model.json").read_text())["stop_token_ids"]
    prompts = [
        example.tree.prompt.input_ids for example in read_examples(folder / "prepare" / "prompt.jsonl")
    ]
    make = with_sampler if side == "ours" else with_generate
    sample = make(
        folder / "sft" / "model",
        getattr(torch, job["dtype"]),
        stops,
        job["num_generations"],
        job["max_new_tokens"],
    )
    seconds, tokens = [], []
    for step in range(job["steps"]):
        torch.manual_seed(step)
        began = time.perf_counter()
        tokens.append(sample(prompts[step * batch : (step + 1) * batch]))
        seconds.append(time.perf_counter() - began)
    device_memory = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"seconds": seconds, "tokens": sum(tokens[WARM_UP:]), "device_memory": device_memory}))


if __name__ == "__main__":
    main()
