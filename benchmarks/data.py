"""Real data in the canonical formats, prepared by the pipeline itself, and written for the peer in the same order."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.works import Work
from stages.algorithms.kto import matched
from stages.config.compose import compose_config
from stages.data.examples import Example, read_examples
from stages.models.load import save_model
from stages.models.reward import RewardModel
from stages.training.order import step_indices

CACHE = Path(__file__).resolve().parent / ".cache"
TURN = re.compile(r"\n\n(Human|Assistant): ")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=CACHE / "data", help="the folder of hh.jsonl and gsm8k.jsonl"
    )


def read_rows(work: Work, folder: Path) -> list[dict[str, Any]]:
    """Rows with an `index` that survives preparation. Raises SystemExit where the file is not there."""
    path = folder / f"{work.data}.jsonl"
    if work.data == "arithmetic" and not path.exists():
        _write_arithmetic(path)
    if not path.exists():
        raise SystemExit(f"{path} is missing: see benchmarks/README.md, Data")
    rows = [ROWS[work.data](json.loads(line)) for line in path.read_text().splitlines()]
    return [row | {"index": index} for index, row in enumerate(row for row in rows if row)]


def pair(row: dict[str, str]) -> dict[str, Any] | None:
    """One pair as messages; None where the dialogues part before their last answer, or lack one."""
    chosen, rejected = (_turns(row[side]) for side in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1] or not chosen[-1]["content"] or not rejected[-1]["content"]:
        return None
    if chosen == rejected or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return None
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


def problem(row: dict[str, str]) -> dict[str, Any]:
    """One problem of GSM8K, whose answer ends with its number."""
    return {"prompt": row["question"], "answer": row["answer"]}


def _turns(text: str) -> list[dict[str, str]]:
    _, *parts = TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


ROWS: dict[str, Callable[[dict[str, str]], dict[str, Any] | None]] = {
    "hh": pair,
    "gsm8k": problem,
    "arithmetic": dict,
}


def _write_arithmetic(path: Path) -> None:
    import reasoning_gym

    data = reasoning_gym.create_dataset("chain_sum", size=600, seed=7, min_terms=2, max_terms=2, max_digits=2)
    lines = [json.dumps({"prompt": row["question"], "answer": row["answer"]}) for row in data]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def prepare(work: Work, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """Run the prepare stage on `rows`, unless it has; returns the overrides by which a stage finds its output."""
    source = folder / "rows.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if source.exists() and source.read_text() != text:  # other data
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    overrides = [f"seed={work.seed}", "tracking.enabled=false", "data.bad_rows=drop"]
    overrides += ["data.test_size=1", "data.validation_size=1"]
    verified = work.data != "hh"
    verifier = "numeric" if verified else "null"
    overrides += [f"data.verifier={verifier}"]
    overrides += [f"model.path={work.model}"] if work.model else []
    for role in ("sft", "preference", "prompt"):
        overrides += [f"data.{role}.source=files", f"data.{role}.path={source}", f"data.{role}.size=null"]
    if verified:
        overrides += ["+data.sft.columns={prompt: prompt, completion: answer}"]
    if not (folder / "prepare").exists():
        command = [sys.executable, "-m", "stages.prepare", *overrides, f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True, capture_output=True)
    link_base(folder, work.model or Path("../prepare/model"))
    if work.reward_model and not (folder / "reward_model" / "merged").exists():
        # elsewhere: what is measured later begins with this process's peak of memory
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(make_reward_model, folder, "model.lora=true" in work.overrides).result()
    inputs = {name: folder / name for name in ("prepare", "sft", "reward_model")}
    return [*overrides, *(f"+run.inputs.{name}={path}" for name, path in inputs.items())]


def link_base(folder: Path, base: Path) -> None:
    """The base model in the place of the sft model, where both sides read it, and a place for a reward model."""
    for name in ("sft", "reward_model"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "reward_model" / "marker.json").write_text('{"trained": false}\n')  # as where none is needed
    if not (folder / "sft" / "model").exists():
        (folder / "sft" / "model").symlink_to(base)


def make_reward_model(folder: Path, lora: bool) -> None:
    """The base model with the head that our stage would begin with: as our stages read it, and whole for the peer."""
    base = folder / "sft" / "model"
    settings = compose_config([f"model.lora={str(lora).lower()}"]).model
    torch.manual_seed(0)
    model = RewardModel.from_policy(base, settings).model
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, merge in (("model", not lora), ("merged", True)):
        save_model(model, tokenizer, folder / "reward_model" / name, merge_adapter=merge, base=base)


def in_order(work: Work, rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The rows as our stage will take them, step by step: the peer reads them in sequence."""
    return [rows[example.columns["index"]] for example in examples_in_order(work, folder)]


def examples_in_order(work: Work, folder: Path) -> list[Example]:
    """What the prepare stage made of them; for kto with the completions that each prompt's KL is taken on."""
    examples = read_examples(folder / "prepare" / f"{work.role}.jsonl")
    if work.algorithm == "kto":
        examples = matched(examples, work.seed)
    taken = [step_indices(step, len(examples), work.batch, work.seed) for step in range(work.steps)]
    return [examples[index] for indices in taken for index in indices]
