"""A project of tiny models whose numbers are known: in sft and rl every token is equally likely."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from stages.config.compose import compose_config
from stages.data.examples import Example, write_examples
from stages.tracking.curves import Curves
from stages.tracking.tracker import Tracker
from stages.trees import Node, Tree
from stages.workspace import Stage
from tests.data.tiny import EOS, tiny_tokenizer

PROMPTS = 6
TOKENIZER = tiny_tokenizer(None)
EOS_ID = TOKENIZER.convert_tokens_to_ids(EOS)
LOG_VOCABULARY = math.log(len(TOKENIZER))
SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "tie_word_embeddings": False, "eos_token_id": EOS_ID,
}  # fmt: skip
OVERRIDES = [
    "evaluate.max_new_tokens=4", "evaluate.bf16=false", "evaluate.bootstrap_samples=200",
    "evaluate.num_samples=3", "evaluate.num_prompts=null", "data.verifier=exact",
]  # fmt: skip


def save(folder: Path, sharpness: float) -> None:
    """A random Llama; its output weights times `sharpness`, so that 0 is uniform over the vocabulary."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=1.0))
    model.lm_head.weight.data.mul_(sharpness)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)


def save_reward_model(folder: Path, reward_std: float = 2.0) -> None:
    """A reward of 0 for everything, normalised with mean -1 and deviation 2: 0.5."""
    normalised: dict[str, Any] = {
        "num_labels": 1,
        "reward_kind": "head",
        "reward_mean": -1.0,
        "reward_std": reward_std,
    }
    config = LlamaConfig(**SHAPE, **normalised)
    model = LlamaForSequenceClassification(config)
    model.score.weight.data.zero_()
    model.save_pretrained(folder)


def example(index: int, completion: str | None) -> Example:
    """A right answer is what the uniform model gives, whose first token is `!`, in every second row."""
    text = f"{index} + 1 ="
    ids = TOKENIZER.encode(text)
    nodes = []
    if completion is not None:
        target = [*TOKENIZER.encode(completion), EOS_ID]
        nodes = [Node(target, [True] * len(target))]
    right = "!!!!" if index % 2 else "no"
    return Example(Tree(Node(ids, [False] * len(ids)), nodes), text, None, {"answer": right})


def save_project(root: Path) -> None:
    """The outputs of the stages that evaluate reads."""
    for stage in ("prepare", "sft", "reward_model", "rl"):
        (root / stage).mkdir()
    for stage, sharpness in {"prepare": 1.0, "sft": 0.0, "rl": 0.0}.items():
        save(root / stage / "model", sharpness)
    (root / "prepare" / "model.json").write_text(
        json.dumps(
            {
                "path": "model", "revision": None, "sha256": "0", "embedded": True,
                "trust_remote_code": False, "stop_token_ids": [EOS_ID],
            }
        )
    )  # fmt: skip
    write_examples(root / "prepare" / "prompt_test.jsonl", [example(i, None) for i in range(PROMPTS)])
    write_examples(root / "prepare" / "sft_test.jsonl", [example(i, str(i + 1)) for i in range(PROMPTS)])
    (root / "sft" / "curves.csv").write_text("step,train/loss\n1,2.0\n2,1.5\n")
    (root / "reward_model" / "curves.csv").write_text("step\n")
    (root / "rl" / "curves.csv").write_text("step,eval/gold_accuracy\n2,0.5\n")
    save_reward_model(root / "reward_model" / "model")


def stage(project: Path, output: Path, *overrides: str) -> Stage:
    config = compose_config([*OVERRIDES, *overrides])
    folders = {name: str(project / name) for name in ("prepare", "sft", "reward_model", "rl")}
    config.run.inputs = folders | dict(config.run.inputs)
    output.mkdir()
    return Stage(
        "evaluate", config, output, output / "none", Tracker([Curves(output / "curves.csv")]), is_main=True
    )
